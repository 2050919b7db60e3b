"""Run a backbone once over a view of a data set and keep the maps and pooled vectors."""

from common import job

with job(snakemake, f"features {snakemake.params.dataset}") as say:
    import torch

    from sharc_core.grid.loading import load_grid
    from sharc_core.stages.build import build_features

    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    build_features(load_grid(snakemake.config), params.dataset, params.backbone, params.view, progress=say)
