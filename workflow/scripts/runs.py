"""Collect the cells' documents into runs.csv, one row per run."""

from common import job

with job(snakemake, "runs"):
    from sharc_core.learning.documents import read_all
    from sharc_core.results.runs import runs_table, write_runs

    documents = read_all(snakemake.input, snakemake.params.wanted)
    write_runs(runs_table(documents, snakemake.params.members), snakemake.output[0])
