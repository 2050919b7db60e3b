"""What the recall study's results come from, and their checksums."""

from common import job

with job(snakemake, "recall provenance"):
    from sharc_core.grid.loading import load_grid
    from sharc_core.verification.record import write_recall_record

    found, given = snakemake.input, snakemake.params
    rows = dict(zip(found.rows, given.wanted, strict=True))
    write_recall_record(load_grid(snakemake.config), rows, [*found.others, *found.cards], dict(given.stages))
