# Data sets, backbones and features: made once, shared between grids. Their paths carry a hash of what they
# are made from, so what is there is right; what a path stands for is looked up.
# update: Snakemake would delete what is there before a job makes it anew, also what another grid, in another
# folder with the same data_dir, has just made and is reading. Our jobs replace it whole when they are done.

# Backbones that are pre-trained on the same data share its folder and the job that makes it. No backbone
# is among its parameters, so that another one, in this grid or the next, does not make it anew.
PREPARED = {}
for backbone in layout.backbones:
    if layout.card(backbone) is not None:
        PREPARED[layout.pretraining_data(backbone).name] = ("for pre-training", True)
for name in grid.datasets:
    PREPARED[layout.prepared(name).name] = (name, False)
PRETRAINED = {
    layout.weights(name).stem: config.network_name
    for name, config in layout.backbones.items()
    if layout.card(name) is not None
}
CACHES = {str(layout.features(*key).relative_to(layout.data / "features")): key for key in extracted_views(grid)}


def missing(path, names, rule):
    """Those of some inputs that are not there, or were asked for by rule or name."""
    paths = {str(layout.data / path.format(name)): name for name in names}
    return [paths[p] for p in offered(paths, lambda p: is_there(Path(p)) and not call.is_target(p), rule)]


def is_there(path):
    """A manifest, or a card and the weights beside it."""
    return path.exists() and (path.name == "manifest.json" or path.with_suffix(".safetensors").exists())


rule data:
    output:
        update(str(layout.data / "prepared/{data}/manifest.json")),
    params:
        name=lambda w: PREPARED[w.data][0],
        pretraining=lambda w: PREPARED[w.data][1],
    wildcard_constraints:
        data=one_of(missing("prepared/{}/manifest.json", PREPARED, "data")),
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
        backbone=lambda w: PRETRAINED[w.weights],
    wildcard_constraints:
        weights=one_of(missing("backbones/{}.json", PRETRAINED, "pretrain")),
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
        dataset=lambda w: CACHES[w.cache][0],
        backbone=lambda w: CACHES[w.cache][1],
        view=lambda w: CACHES[w.cache][2],
    wildcard_constraints:
        cache=one_of(missing("features/{}/manifest.json", CACHES, "features")),
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
