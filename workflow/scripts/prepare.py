"""Fetch or render one data set's images."""

from pathlib import Path

from common import job

with job(snakemake, f"data {snakemake.params.name}") as say:
    from sharc_core.config import load_grid, pretrain_source
    from sharc_core.pipeline import Layout, prepare_data

    grid = load_grid(snakemake.config)
    if snakemake.params.pretraining:
        source = pretrain_source(grid, Layout(grid).backbones[snakemake.params.pretraining])
    else:
        source = grid.source(snakemake.params.name)
    prepare_data(source, Path(snakemake.output[0]).parent, say)
