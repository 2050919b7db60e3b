# Cells in batches (`cells: per_job`): a job trains several cells, and their documents are then moved to their
# places. Finished documents lie in a folder that is no job's output: see sharc_core/stages/cell_jobs.py.

from sharc_core.stages.cell_jobs import FINISHED


def trained_by(wildcards):
    """The documents that a batch trains."""
    w = wildcards
    return PLAN.in_batch(PLAN.path(f"matrices/{w.dataset}/{w.backbone}/{FINISHED}/{w.batch}.batch"))


rule cells:
    input:
        features=lambda w: PLAN.features_of(trained_by(w)),
        images=lambda w: PLAN.images_of(trained_by(w)),
    output:
        temp(PLAN.path(f"matrices/{{dataset}}/{{backbone}}/{FINISHED}/{{batch}}.batch")),
    params:
        jobs=lambda w: list(map(PLAN.job, trained_by(w))),
        documents=lambda w: trained_by(w),
        aside=PLAN.replaced,
    log:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{batch}}.log",
    benchmark:
        f"{LOGS}/cells/{{dataset}}/{{backbone}}/{{batch}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(8000),
        # the time of its cells alone, but at most that of eight, as partitions limit a job's time
        runtime=growing(120, times=lambda w: min(len(trained_by(w)), 8)),
        gpu=CELL_GPUS,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/cells.py"


ruleorder: document > cell


rule document:
    input:
        lambda w: PLAN.batch_of[document_of(w)],
    output:
        update(PLAN.path("matrices/{cell}.json")),
    params:
        finished=lambda w: PLAN.kept_document(document_of(w)),
    wildcard_constraints:
        cell=one_of(PLAN.names("matrices", PLAN.to_train)),
    localrule: True
    shell:
        # jobs on a cluster do not know that a whole batch was forced: they only train what is missing
        "if [ -e {params.finished:q} ]; then mv -f {params.finished:q} {output:q}; fi"
