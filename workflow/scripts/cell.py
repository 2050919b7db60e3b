"""Train one cell, all its seeds at once, and write its result document."""

from pathlib import Path

from common import job

with job(snakemake, f"{snakemake.params.cell['dataset']} {Path(snakemake.output[0]).stem}"):
    import torch

    from sharc_core.batches import open_for
    from sharc_core.cell import Cell
    from sharc_core.files import write_json
    from sharc_core.learner import run_cell

    torch.set_num_threads(snakemake.threads)
    cell = Cell.model_validate(snakemake.params.cell)
    features = open_for(cell, [Path(manifest) for manifest in snakemake.input[:]])
    write_json(snakemake.output[0], run_cell(features, cell, progress=print))
