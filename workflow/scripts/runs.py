"""Collect the cells' documents into runs.csv, one row per run."""

from common import job

with job(snakemake, "runs"):
    from sharc_core.files import read_json
    from sharc_core.results import runs_table, write_runs

    documents = [read_json(path) for path in snakemake.input]
    write_runs(runs_table(documents, snakemake.params.members), snakemake.output[0])
