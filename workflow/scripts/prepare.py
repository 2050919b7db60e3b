"""Fetch or render one data set's images, or those that a backbone is pre-trained on."""

from pathlib import Path

from common import job

source = snakemake.params.source  # {"dataset": its name} or {"backbone": the name of one}
with job(snakemake, f"data {source.get('dataset', 'for pre-training')}") as say:
    from sharc_core.grid.loading import load_grid
    from sharc_core.stages.build import prepare_data
    from sharc_core.stages.layout import Layout

    layout, folder = Layout(load_grid(snakemake.config)), Path(snakemake.output[0]).parent
    if "dataset" in source:
        prepare_data(layout.source(source["dataset"]), folder, say)
    else:
        prepare_data(layout.pretraining_source(source["backbone"]), folder, say)
