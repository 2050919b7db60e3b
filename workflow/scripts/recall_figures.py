"""Recall against mask, noise, number of stored maps and later tasks."""

from pathlib import Path

from common import job

with job(snakemake, "recall figures"):
    from sharc_core.studies.recall_figures import write_recall_figures
    from sharc_core.studies.recall_table import read_rows

    rows = read_rows(snakemake.input, snakemake.params.wanted)
    write_recall_figures(rows, Path(snakemake.output[0]).parent)
