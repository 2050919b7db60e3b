# Data sets, backbones and features: made once, shared between grids. Their paths carry a hash of what they
# are made from; what a path stands for is looked up, so that each has its own settings and code.
# update: Snakemake would delete what is there before a job makes it anew, also what another grid, in another
# folder with the same data_dir, has just made and is reading. Our jobs replace it whole when they are done.

# Backbones that are pre-trained on the same data share its folder and the job that makes it. No backbone
# is among its parameters, so that another one, in this grid or the next, does not make it anew.
PREPARED = {}
for backbone in layout.backbones:
    if layout.card(backbone) is not None:
        source = layout.pretraining_source(backbone)
        PREPARED[layout.pretraining_data(backbone).name] = ("for pre-training", True, source)
for name in grid.datasets:
    PREPARED[layout.prepared(name).name] = (name, False, layout.source(name))
PRETRAINED = {
    layout.weights(name).stem: config.network_name
    for name, config in layout.backbones.items()
    if layout.card(name) is not None
}
CACHES = {str(layout.features(*key).relative_to(layout.data / "features")): key for key in extracted_views(grid)}


def one_of(names):
    """A wildcard's constraint: no rule offers to make what the grid does not have."""
    return "|".join(map(re.escape, names))


rule data:
    output:
        update(str(layout.data / "prepared/{data}/manifest.json")),
    params:
        script=script_of("prepare.py"),
        name=lambda w: PREPARED[w.data][0],
        pretraining=lambda w: PREPARED[w.data][1],
        code=lambda w: stage_hash(*data_code(PREPARED[w.data][2])),
    wildcard_constraints:
        data=one_of(PREPARED),
    log:
        f"{LOGS}/data/{{data}}.log",
    benchmark:
        f"{LOGS}/data/{{data}}.tsv"
    threads: workflow.cores or 1
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/prepare.py"


rule pretrain:
    input:
        lambda w: f"{layout.pretraining_data(layout.network(PRETRAINED[w.weights]))}/manifest.json",
    output:
        weights=update(str(layout.data / "backbones/{weights}.safetensors")),
        card=update(str(layout.data / "backbones/{weights}.json")),
    params:
        script=script_of("pretrain.py"),
        backbone=lambda w: PRETRAINED[w.weights],
        code=lambda w: stage_hash(*pretrain_code(layout.backbones[layout.network(PRETRAINED[w.weights])])),
    wildcard_constraints:
        weights=one_of(PRETRAINED),
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


def features_of(cells):
    """Manifests of all features that cells of one data set and backbone read, the first view's first."""
    return [f"{folder}/manifest.json" for folder in layout.read_by(cells)]


def extracted_from(wildcards):
    """A data set's manifest, the backbone's weights unless torchvision holds them, features it goes on from."""
    dataset, backbone, _ = CACHES[wildcards.cache]
    weights, before = layout.weights(backbone), layout.made_from(*CACHES[wildcards.cache])
    found = [f"{layout.prepared(dataset)}/manifest.json", *([] if weights is None else [str(weights)])]
    return found + ([] if before is None else [f"{before}/manifest.json"])


def is_drifting(cache):
    return isinstance(CACHES[cache][2], str)


rule features:
    input:
        extracted_from,
    output:
        update(str(layout.data / "features/{cache}/manifest.json")),
    params:
        script=script_of("features.py"),
        dataset=lambda w: CACHES[w.cache][0],
        backbone=lambda w: CACHES[w.cache][1],
        view=lambda w: CACHES[w.cache][2],
        code=lambda w: stage_hash(*features_code(layout.backbones[CACHES[w.cache][1]])),
    wildcard_constraints:
        cache=one_of(CACHES),
    log:
        f"{LOGS}/features/{{cache}}.log",
    benchmark:
        f"{LOGS}/features/{{cache}}.tsv"
    # batches of ten leave a second core nothing to do, but seeds and numbers of passes are jobs of their own
    threads: lambda w: 1 if is_drifting(w.cache) else workflow.cores or 1
    resources:
        mem_mb=growing(16000),
        runtime=growing(240),
        gpu=GPUS,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/features.py"
