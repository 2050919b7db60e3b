"""Pre-train a backbone on classes that no stream uses."""

from common import job

with job(snakemake, f"backbone {snakemake.params.backbone}") as say:
    import torch

    from sharc_core.grid.loading import load_grid
    from sharc_core.stages.build import pretrain_backbone

    torch.set_num_threads(snakemake.threads)
    pretrain_backbone(load_grid(snakemake.config), snakemake.params.backbone, say)
