# Studies with jobs of their own. Of each, `snakemake <study>` makes the rows of its jobs, what is made from them
# (rules <study>_tables, <study>_figures ...) and its record (rule <study>_provenance).

JOBS = {path: (study, job) for study in PLAN.studies for path, job in study.jobs.items()}
TO_MEASURE = [path for study in PLAN.studies for path in study.to_measure]


def job_of(wildcards):
    """The job that a file of rows belongs to."""
    return JOBS[rows_of(wildcards)][1]


def rows_of(wildcards):
    return PLAN.path(f"{wildcards.job}.csv")


rule study_job:
    input:
        features=lambda w: f"{PLAN.layout.features(job_of(w).dataset, job_of(w).backbone)}/manifest.json",
    output:
        PLAN.path("{job}.csv"),
    params:
        study=lambda w: JOBS[rows_of(w)][0].name,
        job=lambda w: job_of(w).parameters,
        key=lambda w: JOBS[rows_of(w)][0].keys[rows_of(w)],
    wildcard_constraints:
        job=one_of(PLAN.names(".", TO_MEASURE)),
    log:
        f"{LOGS}/{{job}}.log",
    benchmark:
        f"{LOGS}/{{job}}.tsv"
    threads: 1
    resources:
        mem_mb=lambda w, attempt: attempt * job_of(w).mem_mb,
        runtime=lambda w, attempt: attempt * job_of(w).minutes,
        gpu=lambda w: job_of(w).gpus,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/study_job.py"


# Finished rows that were asked for by their name.
rule measured:
    output:
        update(PLAN.path("{job}.csv")),
    wildcard_constraints:
        job=one_of(PLAN.names(".", PLAN.call.requested(JOBS, TO_MEASURE))),
    localrule: True
    shell:
        ":"


for study in PLAN.studies:
    for name, stage in study.rules.items():

        rule:
            name:
                name
            input:
                read_by(name, list(study.jobs) if stage.reads_rows else []),
            output:
                study.stages.files[name],
            params:
                study=study.name,
                stage=stage.name,
                key=study.stages.keys[name],
                wanted=list(study.keys.values()) if stage.reads_rows else [],
            log:
                f"{LOGS}/{name}.log",
            benchmark:
                f"{LOGS}/{name}.tsv"
            localrule: stage.mem_mb is None
            resources:
                mem_mb=growing(stage.mem_mb or 1000),
                runtime=growing(stage.minutes or 10),
            conda:
                "../../envs/sharc.yaml"
            script:
                "../scripts/study_stage.py"

    rule:
        name:
            study.record_rule
        input:
            rows=read_by(study.record_rule, list(study.jobs)),
            others=read_by(study.record_rule, study.made),
            cards=read_by(study.record_rule, list(PLAN.cards)),
        output:
            study.record,
        params:
            study=study.name,
            stages=study.stages.keys,
            wanted=list(study.keys.values()),
        log:
            f"{LOGS}/{study.record_rule}.log",
        benchmark:
            f"{LOGS}/{study.record_rule}.tsv"
        localrule: True
        conda:
            "../../envs/sharc.yaml"
        script:
            "../scripts/study_record.py"

    rule:
        name:
            study.name
        input:
            study.files,
