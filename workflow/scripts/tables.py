"""Paper-style tables as Markdown, CSV and LaTeX."""

from pathlib import Path

from common import job

with job(snakemake, "tables"):
    from sharc_core.published import load_published
    from sharc_core.results import read_runs
    from sharc_core.scorecard import write_scorecard
    from sharc_core.tables import write_study_tables, write_tables

    runs, published = read_runs(snakemake.input.runs), load_published(snakemake.input.published)
    folder = Path(snakemake.output[0]).parent
    write_tables(runs, published, folder)
    write_study_tables(runs, published, folder, snakemake.params.studies)
    write_scorecard(runs, published, folder)
