# The recall study: each associative memory on its own, then tables, figures and pictures of all.


def path_of(wildcards):
    return result(f"recall/{wildcards.recall}.csv")


def recall_of(wildcards):
    return RECALL[path_of(wildcards)]


rule recall_memory:
    input:
        features=lambda w: f"{layout.features(recall_of(w).dataset, recall_of(w).backbone)}/manifest.json",
    output:
        result("recall/{recall}.csv"),
    params:
        job=lambda w: recall_of(w).model_dump(mode="json"),
        key=lambda w: RECALL_KEYS[path_of(w)],
    wildcard_constraints:
        recall=one_of(below("recall", TO_MEASURE)),
    log:
        f"{LOGS}/recall/{{recall}}.log",
    benchmark:
        f"{LOGS}/recall/{{recall}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/recall_memory.py"


# Rows that were asked for by their name and are there.
rule measured:
    output:
        update(result("recall/{recall}.csv")),
    wildcard_constraints:
        recall=one_of(below("recall", there(RECALL, TO_MEASURE))),
    shell:
        ":"


rule recall_tables:
    input:
        read_by("recall_tables", list(RECALL)),
    output:
        RECALL_TABLES,
    params:
        key=RECALL_STAGE_KEYS["recall_tables"],
        wanted=list(RECALL_KEYS.values()),
        study=grid.recall.model_dump(mode="json"),
        grid=grid.config_hash,
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
        read_by("recall_figures", list(RECALL)),
    output:
        RECALL_FIGURES,
    params:
        key=RECALL_STAGE_KEYS["recall_figures"],
        wanted=list(RECALL_KEYS.values()),
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
        key=RECALL_STAGE_KEYS["recall_pictures"],
        memories=recall_settings(grid),
        pictures=grid.recall.pictures,
        side=grid.recall.side,
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
        rows=read_by("recall_provenance", list(RECALL)),
        others=read_by("recall_provenance", [*RECALL_TABLES, *RECALL_FIGURES, *RECALL_PICTURES]),
        cards=read_by("recall_provenance", list(CARDS)),
    output:
        result(NAMES["recall"]),
    params:
        stages=RECALL_STAGE_KEYS,
        wanted=list(RECALL_KEYS.values()),
    log:
        f"{LOGS}/recall_provenance.log",
    benchmark:
        f"{LOGS}/recall_provenance.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/recall_provenance.py"
