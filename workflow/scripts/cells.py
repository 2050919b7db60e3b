"""Train a batch of cells, each with all its missing seeds at once, one after the other in this process."""

from pathlib import Path

from common import job

with job(snakemake, f"{snakemake.wildcards.dataset} {snakemake.wildcards.batch}"):
    import torch

    from sharc_core.stages.cell_jobs import run_batch, wanted_of

    torch.set_num_threads(snakemake.threads)
    jobs, aside = snakemake.params.jobs, snakemake.params.aside
    run_batch(
        [wanted_of(parameters) for parameters in jobs],
        [parameters["seeds"] for parameters in jobs],
        [Path(path) for path in snakemake.params.documents],
        [Path(manifest) for manifest in snakemake.input.features],
        Path(snakemake.output[0]),
        aside and Path(aside),
    )
