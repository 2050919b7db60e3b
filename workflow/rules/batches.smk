# Cells in batches (`cells: per_job`): a job trains several, and their documents are then put in their places.
# What was finished lies in a folder that is no job's output: see sharc_core/stages/cell_jobs.py.

PLACES = {
    str(layout.cell(cell)): str(layout.cell(cell).parent / FINISHED / f"{batch}.batch")
    for (_, _, batch), together in BATCHES.items()
    for cell in together
}


def batch_of(wildcards):
    """Paths of the documents of a batch."""
    return [str(layout.cell(cell)) for cell in BATCHES[wildcards.dataset, wildcards.backbone, wildcards.batch]]


def unfinished(paths):
    """Those of a batch that it trains: those that are asked for anew, too; all, where all are there."""
    left = [path for path in paths if path in found.forced or not found.is_finished(path)]
    return left or paths


if call.compares:
    call.force(PLACES[path] for path in TO_TRAIN)


rule cells:
    input:
        lambda w: features_of([found.to_train(path) for path in unfinished(batch_of(w))]),
    output:
        temp(result(f"matrices/{{dataset}}/{{backbone}}/{FINISHED}/{{batch}}.batch")),
    params:
        jobs=lambda w: [of_a_job(path) for path in unfinished(batch_of(w))],
        documents=lambda w: unfinished(batch_of(w)),
        aside=OUTDATED_FOLDER,
    log:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{batch}}.log",
    benchmark:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{batch}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(8000),
        # what its cells would ask for alone; no more than for eight, as partitions limit a job's time
        runtime=growing(120, times=lambda w: min(len(unfinished(batch_of(w))), 8)),
        gpu=CELL_GPUS,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/cells.py"


ruleorder: document > cell


LOCAL += ["document"]
workflow.localrules(*map(workflow.modifier.modify_rulename, LOCAL))


rule document:
    input:
        lambda w: PLACES[cell_of(w)],
    output:
        update(result("matrices/{cell}.json")),
    params:
        finished=lambda w, input: str(kept_document(os.path.dirname(input[0]), CELLS[cell_of(w)])),
    wildcard_constraints:
        cell=one_of(below("matrices", TO_TRAIN)),
    shell:
        # of a batch that was asked for anew on a cluster, whose jobs do not know it, only what is missing is made
        "if [ -e {params.finished:q} ]; then mv -f {params.finished:q} {output:q}; fi"
