# Cells in batches (`cells: per_job`): a job trains several, and their documents are then put in their places.
# What was finished lies in a folder that is no job's output: see sharc_core/batches.py.

STAMPS = {
    str(layout.cell(cell)): str(layout.cell(cell).parent / FINISHED / f"{batch}.batch")
    for (_, _, batch), together in BATCHES.items()
    for cell in together
}


def batch_of(wildcards):
    return BATCHES[wildcards.dataset, wildcards.backbone, wildcards.batch]


rule cells:
    input:
        lambda w: features_of(batch_of(w)),
    output:
        result(f"matrices/{{dataset}}/{{backbone}}/{FINISHED}/{{batch}}.batch"),
    params:
        script=script_of("cells.py"),
        cells=lambda w: [cell.job for cell in batch_of(w)],
        code=lambda w: [code_hash(cell.method, cell.memory_kind, cell.saliency) for cell in batch_of(w)],
    log:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{batch}}.log",
    benchmark:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{batch}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(8000),
        # what its cells would ask for alone; no more than for eight, as partitions limit a job's time
        runtime=growing(120, times=lambda w: min(len(batch_of(w)), 8)),
        gpu=CELL_GPUS,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/cells.py"


ruleorder: document > cell


localrules:
    document,


rule document:
    input:
        lambda w: STAMPS[str(layout.cell(cell_of(w)))],
    output:
        result("matrices/{dataset}/{backbone}/{cell}.json"),
    params:
        finished=lambda w, input: str(kept_document(os.path.dirname(input[0]), cell_of(w))),
        cell=lambda w: cell_of(w).job,
        code=lambda w: code_hash(cell_of(w).method, cell_of(w).memory_kind, cell_of(w).saliency),
    shell:
        # as everywhere, whole or not at all: beside it first, then renamed
        "cp {params.finished:q} {output:q}.part && mv {output:q}.part {output:q}"
        " || {{ rm -f {output:q}.part; false; }}"
