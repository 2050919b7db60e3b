"""Run a backbone once over a view of a data set and keep the maps and pooled vectors."""

from common import job

with job(snakemake, f"features {snakemake.params.dataset}") as say:
    import torch

    from sharc_core.features.folders import parse_folder
    from sharc_core.grid.loading import load_grid
    from sharc_core.stages.build import build_features

    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    folder, grid = parse_folder(params.folder), load_grid(snakemake.config)
    build_features(grid, params.dataset, params.backbone, folder, progress=say)
