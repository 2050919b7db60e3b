# Data sets, backbones and features: made once, shared between grids.
# update: Snakemake would delete existing output before a job makes it again, even output that another grid, in
# another folder with the same data_dir, has just made and is reading. Our jobs replace it in one step.


rule data:
    output:
        update(str(PLAN.layout.data / "prepared/{data}/manifest.json")),
    params:
        source=lambda w: PLAN.inputs.prepared[w.data],
    wildcard_constraints:
        data=one_of(PLAN.inputs.missing_data),
    log:
        f"{LOGS}/data/{{data}}.log",
    benchmark:
        f"{LOGS}/data/{{data}}.tsv"
    threads: workflow.cores or 1
    localrule: True  # it may download
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/prepare.py"


rule pretrain:
    input:
        lambda w: PLAN.inputs.pretrained_on(w.weights),
    output:
        weights=update(str(PLAN.layout.data / "backbones/{weights}.safetensors")),
        card=update(str(PLAN.layout.data / "backbones/{weights}.json")),
    params:
        backbone=lambda w: PLAN.inputs.pretrained[w.weights],
    wildcard_constraints:
        weights=one_of(PLAN.inputs.missing_weights),
    log:
        f"{LOGS}/pretrain/{{weights}}.log",
    benchmark:
        f"{LOGS}/pretrain/{{weights}}.tsv"
    threads: workflow.cores or 1
    resources:
        mem_mb=growing(8000),
        runtime=growing(120),
        gpu=GPUS,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/pretrain.py"


rule features:
    input:
        lambda w: PLAN.inputs.extracted_from(w.cache),
    output:
        update(str(PLAN.layout.data / "features/{cache}/manifest.json")),
    params:
        dataset=lambda w: PLAN.inputs.caches[w.cache][0],
        backbone=lambda w: PLAN.inputs.caches[w.cache][1],
        folder=lambda w: PLAN.inputs.caches[w.cache][2].name,
    wildcard_constraints:
        cache=one_of(PLAN.inputs.missing_features),
    log:
        f"{LOGS}/features/{{cache}}.log",
    benchmark:
        f"{LOGS}/features/{{cache}}.tsv"
    threads: lambda w: 1 if PLAN.inputs.is_drifting(w.cache) else workflow.cores or 1
    resources:
        mem_mb=growing(16000),
        runtime=growing(240),
        gpu=lambda w: GPUS if PLAN.inputs.needs_network(w.cache) else 0,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/features.py"
