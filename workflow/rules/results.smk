# Cells and what is made of them.


def cell_of(wildcards):
    return CELLS[result(f"matrices/{wildcards.dataset}/{wildcards.backbone}/{wildcards.cell}.json")]


rule cell:
    input:
        features=lambda w: features_of(w.dataset, w.backbone, cell_of(w).seeds),
    output:
        result("matrices/{dataset}/{backbone}/{cell}.json"),
    params:
        cell=lambda w: cell_of(w).model_dump(mode="json"),
        code=lambda w: code_hash(cell_of(w).method, cell_of(w).memory_kind, cell_of(w).saliency),
    log:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{cell}}.log",
    benchmark:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{cell}}.tsv"
    threads: 1
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/cell.py"


rule runs:
    input:
        list(CELLS),
    output:
        result("runs.csv"),
    params:
        code=stage_hash("results"),
    log:
        f"{LOGS}/runs.log",
    benchmark:
        f"{LOGS}/runs.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/runs.py"


rule tables:
    input:
        runs=result("runs.csv"),
        published=PUBLISHED,
    output:
        TABLES,
    params:
        code=stage_hash("tables", "published", "results"),
    log:
        f"{LOGS}/tables.log",
    benchmark:
        f"{LOGS}/tables.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/tables.py"


rule figures:
    input:
        runs=result("runs.csv"),
        cells=list(CELLS),
    output:
        FIGURES,
    params:
        code=stage_hash("figures", "results"),
    log:
        f"{LOGS}/figures.log",
    benchmark:
        f"{LOGS}/figures.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/figures.py"


rule report:
    input:
        runs=result("runs.csv"),
        cells=list(CELLS),
        published=PUBLISHED,
        figures=FIGURES,
        cards=CARDS,
    output:
        result("report.html"),
    params:
        code=stage_hash("report", "templates", "published", "results"),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/report.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/report.py"
