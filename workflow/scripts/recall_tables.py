"""The recall study's table as Markdown, CSV and LaTeX."""

from pathlib import Path

from common import job

with job(snakemake, "recall tables"):
    from sharc_core.grid.recall_settings import RecallStudy
    from sharc_core.studies.recall_table import read_rows, write_recall_tables

    study = RecallStudy.model_validate(snakemake.params.study)
    folder, grid = Path(snakemake.output[0]).parent, snakemake.params.grid
    write_recall_tables(read_rows(snakemake.input, snakemake.params.wanted), study, folder, grid)
