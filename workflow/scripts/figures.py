"""Figures of the grid, its sub-grids and the studies that are made from cells."""

from pathlib import Path

from common import job

with job(snakemake, "figures"):
    from sharc_core.grid.loading import load_grid
    from sharc_core.learning.documents import read_all
    from sharc_core.report.figure_files import write_all_figures
    from sharc_core.results.runs import read_runs

    documents, runs = (
        read_all(snakemake.input.cells, snakemake.params.wanted),
        read_runs(snakemake.input.runs),
    )
    grid, folder = load_grid(snakemake.config), Path(snakemake.output[0]).parent
    values = grid.model_dump(mode="json")
    write_all_figures(documents, runs, folder, grid.sub_grids, snakemake.params.grid, values)
