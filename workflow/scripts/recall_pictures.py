"""Digits, their cues, and what each associative memory makes of them."""

from pathlib import Path

from common import job

with job(snakemake, "recall pictures"):
    import torch

    from sharc_core.studies.recall_figures import write_picture_figure
    from sharc_core.studies.recall_pictures import recall_pictures

    torch.set_num_threads(snakemake.threads)
    memories = {name: dict(values) for name, values in snakemake.params.memories.items()}
    found = recall_pictures(memories, snakemake.params.pictures, snakemake.params.side)
    write_picture_figure(found, Path(snakemake.output[0]).parent)
