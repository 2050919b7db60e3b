"""Paper-style tables as Markdown, CSV and LaTeX."""

from pathlib import Path

from common import job

with job(snakemake, "tables"):
    from sharc_core.tables import write_tables

    from sharc_core.published import read_published
    from sharc_core.results import read_runs

    runs = read_runs(snakemake.input.runs)
    write_tables(runs, read_published(snakemake.input.published), Path(snakemake.output[0]).parent)
