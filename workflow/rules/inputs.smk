# Data sets, backbones and features: made once, shared between grids.
# One rule per thing (not one per wildcard): names carry a hash, so each knows its own settings.

for name in grid.datasets:

    rule:
        name:
            f"data_{name}"
        output:
            f"{layout.prepared(name)}/manifest.json",
        params:
            name=name,
            pretraining=False,
            code=stage_hash(*data_code(layout.source(name))),
        log:
            f"{LOGS}/data_{name}.log",
        benchmark:
            f"{LOGS}/data_{name}.tsv"
        threads: workflow.cores or 1
        conda:
            "../../envs/sharc.yaml"
        script:
            "../scripts/prepare.py"


# Backbones that are pre-trained on the same data share its folder and the rule that makes it. No backbone
# is among its parameters, so that another one, in this grid or the next, does not make it anew.
PRETRAINING = {}
for backbone in layout.backbones:
    if layout.card(backbone) is not None:
        PRETRAINING.setdefault(layout.pretraining_data(backbone), backbone)

for folder, backbone in PRETRAINING.items():

    rule:
        name:
            f"pretraining_data_{backbone}"
        output:
            f"{folder}/manifest.json",
        params:
            name="for pre-training",
            pretraining=True,
            code=stage_hash(*data_code(layout.pretraining_source(backbone))),
        log:
            f"{LOGS}/pretraining_data_{backbone}.log",
        benchmark:
            f"{LOGS}/pretraining_data_{backbone}.tsv"
        threads: workflow.cores or 1
        conda:
            "../../envs/sharc.yaml"
        script:
            "../scripts/prepare.py"


for backbone in layout.backbones:
    if layout.card(backbone) is not None:

        rule:
            name:
                f"pretrain_{backbone}"
            input:
                f"{layout.pretraining_data(backbone)}/manifest.json",
            output:
                weights=str(layout.weights(backbone)),
                card=str(layout.card(backbone)),
            params:
                backbone=backbone,
                code=stage_hash(*pretrain_code(layout.backbones[backbone])),
            log:
                f"{LOGS}/pretrain_{backbone}.log",
            benchmark:
                f"{LOGS}/pretrain_{backbone}.tsv"
            threads: workflow.cores or 1
            conda:
                "../../envs/sharc.yaml"
            script:
                "../scripts/pretrain.py"


def features_of(dataset, backbone, seeds):
    """Manifests of all views that the seeds train on, the first view first."""
    views = needed_views(seeds, layout.backbones[backbone].views)
    return [f"{layout.features(dataset, backbone, view)}/manifest.json" for view in views]


for number, (dataset, backbone, view) in enumerate(extracted_views(grid), 1):

    rule:
        name:
            # numbered, because of a, b_c and a_b, c
            f"features_{number}_{dataset}_{backbone}"
        input:
            f"{layout.prepared(dataset)}/manifest.json",
            # none where torchvision holds the weights
            [str(path) for path in [layout.weights(backbone)] if path is not None],
        output:
            f"{layout.features(dataset, backbone, view)}/manifest.json",
        params:
            dataset=dataset,
            backbone=backbone,
            view=view,
            code=stage_hash(*features_code(layout.backbones[backbone])),
        log:
            f"{LOGS}/features/{dataset}/{backbone}/view{view}.log",
        benchmark:
            f"{LOGS}/features/{dataset}/{backbone}/view{view}.tsv"
        threads: workflow.cores or 1
        conda:
            "../../envs/sharc.yaml"
        script:
            "../scripts/features.py"
