"""Train the seeds that a cell's document lacks, all at once, and write the document."""

from pathlib import Path

from common import job

with job(snakemake, f"{snakemake.params.job['cell']['dataset']} {Path(snakemake.output[0]).stem}"):
    import torch

    from sharc_core.stages.cell_jobs import run_alone, wanted_of

    torch.set_num_threads(snakemake.threads)
    given, aside = snakemake.params.job, snakemake.params.aside
    manifests = [Path(manifest) for manifest in snakemake.input[:]]
    run_alone(wanted_of(given), given["seeds"], manifests, Path(snakemake.output[0]), aside and Path(aside))
