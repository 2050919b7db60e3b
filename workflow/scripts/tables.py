"""Paper-style tables as Markdown, CSV and LaTeX."""

from pathlib import Path

from common import job

with job(snakemake, "tables"):
    from sharc_core.report.tables import write_all_tables
    from sharc_core.results.published import load_published
    from sharc_core.results.runs import read_runs

    runs, published = read_runs(snakemake.input.runs), load_published(snakemake.input.published)
    folder, wanted = Path(snakemake.output[0]).parent, snakemake.params
    write_all_tables(runs, published, folder, wanted.studies, wanted.grid)
