"""Train a batch of cells, each with all its seeds at once, one after the other in this process."""

from pathlib import Path

from common import job

with job(snakemake, f"{snakemake.wildcards.dataset} {snakemake.wildcards.batch}"):
    import torch

    from sharc_core.batches import run_batch
    from sharc_core.cell import Cell

    torch.set_num_threads(snakemake.threads)
    cells = [Cell.model_validate(values) for values in snakemake.params.cells]
    manifests = [Path(manifest) for manifest in snakemake.input[:]]
    run_batch(cells, snakemake.params.code, manifests, Path(snakemake.output[0]))
