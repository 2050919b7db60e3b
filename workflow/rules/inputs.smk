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
            pretraining=None,
        log:
            f"{LOGS}/data_{name}.log",
        benchmark:
            f"{LOGS}/data_{name}.tsv"
        threads: workflow.cores or 1
        conda:
            "../../envs/sharc.yaml"
        script:
            "../scripts/prepare.py"


for backbone in layout.backbones:
    if layout.card(backbone) is not None:

        rule:
            name:
                f"pretraining_data_{backbone}"
            output:
                f"{layout.pretraining_data(backbone)}/manifest.json",
            params:
                name=f"for pre-training {backbone}",
                pretraining=backbone,
            log:
                f"{LOGS}/pretraining_data_{backbone}.log",
            benchmark:
                f"{LOGS}/pretraining_data_{backbone}.tsv"
            threads: workflow.cores or 1
            conda:
                "../../envs/sharc.yaml"
            script:
                "../scripts/prepare.py"

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
            log:
                f"{LOGS}/pretrain_{backbone}.log",
            benchmark:
                f"{LOGS}/pretrain_{backbone}.tsv"
            threads: workflow.cores or 1
            conda:
                "../../envs/sharc.yaml"
            script:
                "../scripts/pretrain.py"


def features_of(dataset, backbone):
    return f"{layout.features(dataset, backbone)}/manifest.json"


for backbone in layout.backbones:
    for dataset in grid.datasets:

        rule:
            name:
                f"features_{dataset}_{backbone}"
            input:
                f"{layout.prepared(dataset)}/manifest.json",
                str(layout.weights(backbone) or []),
            output:
                features_of(dataset, backbone),
            params:
                dataset=dataset,
                backbone=backbone,
            log:
                f"{LOGS}/features_{dataset}_{backbone}.log",
            benchmark:
                f"{LOGS}/features_{dataset}_{backbone}.tsv"
            threads: workflow.cores or 1
            conda:
                "../../envs/sharc.yaml"
            script:
                "../scripts/features.py"
