"""Run a backbone once over a data set and keep the maps and pooled vectors."""

from common import job

with job(snakemake, f"features {snakemake.params.dataset}") as say:
    import torch

    from sharc_core.config import load_grid
    from sharc_core.pipeline import build_features

    torch.set_num_threads(snakemake.threads)
    build_features(
        load_grid(snakemake.config), snakemake.params.dataset, snakemake.params.backbone, progress=say
    )
