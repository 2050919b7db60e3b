"""Fetch or render one data set's images."""

from pathlib import Path

from common import job

with job(snakemake, f"data {snakemake.params.name}") as say:
    from sharc_core.grid.loading import load_grid
    from sharc_core.stages.build import prepare_data
    from sharc_core.stages.layout import Layout

    layout, folder = Layout(load_grid(snakemake.config)), Path(snakemake.output[0]).parent
    if snakemake.params.pretraining:
        ours = (name for name in layout.backbones if layout.card(name) is not None)
        source = next(layout.pretraining_source(b) for b in ours if layout.pretraining_data(b) == folder)
    else:
        source = layout.source(snakemake.params.name)
    prepare_data(source, folder, say)
