"""Learning curves, bytes against accuracy, and a figure for every study that has one."""

from pathlib import Path

from common import job

with job(snakemake, "figures"):
    from sharc_core.figures import write_figures
    from sharc_core.grid.sub_grid import Study
    from sharc_core.learning.documents import read_all
    from sharc_core.results.runs import read_runs

    documents = read_all(snakemake.input.cells, snakemake.params.wanted)
    studies = {name: Study.model_validate(values) for name, values in snakemake.params.studies.items()}
    folder, grid = Path(snakemake.output[0]).parent, snakemake.params.grid
    write_figures(documents, read_runs(snakemake.input.runs), folder, studies, grid)
