"""Record what the grid's results come from, and their checksums."""

from common import job

with job(snakemake, "provenance"):
    from sharc_core.grid.loading import load_grid
    from sharc_core.verification.record import Entry, write_grid_record

    inputs, params = snakemake.input, snakemake.params
    cells = {
        path: Entry(members=members, seeds=list(seeds), key=key)
        for path, members, (seeds, key) in zip(inputs.cells, params.members, params.wanted, strict=True)
    }
    others = [*inputs.others, *inputs.cards]
    write_grid_record(load_grid(snakemake.config), cells, others, inputs.published, dict(params.stages))
