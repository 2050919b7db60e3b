"""What the recall study's results come from, and their checksums."""

from common import job

with job(snakemake, "recall provenance"):
    from sharc_core.config import load_grid
    from sharc_core.record import write_recall_record

    write_recall_record(load_grid(snakemake.config), snakemake.input.rows, snakemake.input.others)
