"""Learning curves, and bytes against accuracy."""

from pathlib import Path

from common import job

with job(snakemake, "figures"):
    from sharc_core.figures import write_figures
    from sharc_core.files import read_json
    from sharc_core.results import read_runs

    documents = [read_json(path) for path in snakemake.input.cells]
    write_figures(documents, read_runs(snakemake.input.runs), Path(snakemake.output[0]).parent)
