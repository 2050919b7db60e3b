"""Train one cell, all its seeds at once, and write its result document."""

from pathlib import Path

from common import job

with job(snakemake, f"{snakemake.params.cell['dataset']} {Path(snakemake.output[0]).stem}"):
    import torch

    from sharc_core.cell import Cell
    from sharc_core.features import open_features
    from sharc_core.files import write_json
    from sharc_core.learner import run_cell

    torch.set_num_threads(snakemake.threads)
    cell = Cell.model_validate(snakemake.params.cell)
    features = open_features(Path(snakemake.input.features).parent)
    write_json(snakemake.output[0], run_cell(features, cell, progress=print))
