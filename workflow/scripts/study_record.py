"""Record what a study's results come from, and their checksums."""

from common import job

with job(snakemake, f"{snakemake.params.study} provenance"):
    from sharc_core.grid.loading import load_grid
    from sharc_core.verification.record import write_study_record

    inputs, params = snakemake.input, snakemake.params
    rows = dict(zip(inputs.rows, params.wanted, strict=True))
    others = [*inputs.others, *inputs.cards]
    write_study_record(load_grid(snakemake.config), params.study, rows, others, dict(params.stages))
