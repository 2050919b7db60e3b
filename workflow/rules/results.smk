# Cells and what is made of them. snakemake --report shows what is marked as reported.


def reported(path, category):
    """An output with its caption, category and labels in Snakemake's own report."""
    name, kind = os.path.splitext(os.path.basename(path))
    return report(
        path,
        caption=f"../report/{category.lower()}.rst",
        category=category,
        labels={"what": name.replace("_", " "), "format": kind[1:]},
    )


def cell_of(wildcards):
    return CELLS[result(f"matrices/{wildcards.dataset}/{wildcards.backbone}/{wildcards.cell}.json")]


rule cell:
    input:
        features=lambda w: features_of([cell_of(w)]),
    output:
        result("matrices/{dataset}/{backbone}/{cell}.json"),
    params:
        script=script_of("cell.py"),
        cell=lambda w: cell_of(w).job,
        code=lambda w: code_hash(cell_of(w).method, cell_of(w).memory_kind, cell_of(w).saliency),
    log:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{cell}}.log",
    benchmark:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{cell}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
        gpu=CELL_GPUS,
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
        script=script_of("runs.py"),
        # who reports which scenario of which cell: a matter of this table, not of the cells
        members=list(MEMBERS.values()),
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
        [reported(path, "Tables") for path in TABLES],
    params:
        script=script_of("tables.py"),
        studies=list(STUDIES),
        grid=grid.config_hash,
        code=stage_hash(*TABLE_CODE["grid"]),
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
        # a PNG beside an SVG is the same figure
        [reported(path, "Figures") if path.endswith(".svg") else path for path in FIGURES],
    params:
        script=script_of("figures.py"),
        studies={name: {"figure": study.figure, "title": study.title} for name, study in grid.studies.items()},
        grid=grid.config_hash,
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
        reported(result("report.html"), "Report"),
    params:
        script=script_of("report.py"),
        grid=grid.config_hash,
        code=stage_hash("report", "templates", "published", "results"),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/report.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/report.py"


# Last of all: checksums of everything above, and what it comes from. Its parameters are all that those files
# depend on, so that it is written anew whenever one of them was, be it by a call that did not live to write it.
rule provenance:
    input:
        cells=list(CELLS),
        others=[result("runs.csv"), *TABLES, *FIGURES, result("report.html")],
        published=PUBLISHED,
        cards=CARDS,
    output:
        result(NAMES["grid"]),
    params:
        script=script_of("provenance.py"),
        config=grid.model_dump(mode="json"),
        members=list(MEMBERS.values()),
        features=sorted({str(layout.features(*key)) for key in extracted_views(grid)}),
        code=[
            stage_hash(*TABLE_CODE["grid"], "figures", "report", "templates"),
            *sorted({code_hash(cell.method, cell.memory_kind, cell.saliency) for cell in CELLS.values()}),
        ],
    log:
        f"{LOGS}/provenance.log",
    benchmark:
        f"{LOGS}/provenance.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/provenance.py"
