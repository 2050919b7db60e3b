"""Train the seeds that a cell's document lacks, all at once, and write the document."""

from pathlib import Path

from common import job

with job(snakemake, f"{snakemake.params.job['cell']['dataset']} {Path(snakemake.output[0]).stem}"):
    import torch

    from sharc_core.stages.cell_jobs import run_alone, wanted_of

    torch.set_num_threads(snakemake.threads)
    parameters, aside = snakemake.params.job, snakemake.params.aside
    manifests = [Path(manifest) for manifest in snakemake.input.features]
    document = Path(snakemake.output[0])
    run_alone(wanted_of(parameters), parameters["seeds"], manifests, document, aside and Path(aside))
