# The recall study: each associative memory on its own, then tables, figures and pictures of all.


def recall_of(wildcards):
    return RECALL[result(f"recall/{wildcards.dataset}/{wildcards.backbone}/{wildcards.memory}.csv")]


rule recall_memory:
    input:
        features=lambda w: f"{layout.features(w.dataset, w.backbone)}/manifest.json",
    output:
        result("recall/{dataset}/{backbone}/{memory}.csv"),
    params:
        script=script_of("recall_memory.py"),
        job=lambda w: recall_of(w).model_dump(mode="json"),
        code=lambda w: recall_hash(recall_of(w).memory_kind),
    log:
        f"{LOGS}/recall/{{dataset}}/{{backbone}}/{{memory}}.log",
    benchmark:
        f"{LOGS}/recall/{{dataset}}/{{backbone}}/{{memory}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/recall_memory.py"


rule recall_tables:
    input:
        list(RECALL),
    output:
        RECALL_TABLES,
    params:
        script=script_of("recall_tables.py"),
        study=grid.recall.model_dump(mode="json"),
        grid=grid.config_hash,
        code=stage_hash(*TABLE_CODE["recall"]),
    log:
        f"{LOGS}/recall_tables.log",
    benchmark:
        f"{LOGS}/recall_tables.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/recall_tables.py"


rule recall_figures:
    input:
        list(RECALL),
    output:
        RECALL_FIGURES,
    params:
        script=script_of("recall_figures.py"),
        code=stage_hash("studies.recall_figures", "studies.recall_table"),
    log:
        f"{LOGS}/recall_figures.log",
    benchmark:
        f"{LOGS}/recall_figures.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/recall_figures.py"


rule recall_pictures:
    output:
        RECALL_PICTURES,
    params:
        script=script_of("recall_pictures.py"),
        memories=recall_settings(grid),
        pictures=grid.recall.pictures,
        side=grid.recall.side,
        code=[stage_hash("studies.recall_figures"), *[recall_hash(m["kind"]) for m in recall_settings(grid).values()]],
    log:
        f"{LOGS}/recall_pictures.log",
    benchmark:
        f"{LOGS}/recall_pictures.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/recall_pictures.py"


rule recall_provenance:
    input:
        rows=list(RECALL),
        others=[*RECALL_TABLES, *RECALL_FIGURES, *RECALL_PICTURES],
        cards=CARDS,
    output:
        result(NAMES["recall"]),
    params:
        script=script_of("recall_provenance.py"),
        config=grid.model_dump(mode="json"),
        features=sorted({str(layout.features(job.dataset, job.backbone)) for job in RECALL.values()}),
        code=[
            stage_hash(*TABLE_CODE["recall"], "studies.recall_figures"),
            *sorted({recall_hash(job.memory_kind) for job in RECALL.values()}),
        ],
    log:
        f"{LOGS}/recall_provenance.log",
    benchmark:
        f"{LOGS}/recall_provenance.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/recall_provenance.py"
