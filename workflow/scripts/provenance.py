"""What the grid's results come from, and their checksums."""

from common import job

with job(snakemake, "provenance"):
    from sharc_core.config import load_grid
    from sharc_core.record import write_grid_record

    found = snakemake.input
    cells = dict(zip(found.cells, snakemake.params.members, strict=True))
    write_grid_record(load_grid(snakemake.config), cells, found.others, found.published)
