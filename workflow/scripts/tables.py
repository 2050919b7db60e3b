"""Tables of the grid, its sub-grids and the studies that are made from cells."""

from pathlib import Path

from common import job

with job(snakemake, "tables"):
    from sharc_core.grid.loading import load_grid
    from sharc_core.report.tables import write_all_tables
    from sharc_core.results.published import load_published
    from sharc_core.results.runs import read_runs

    runs, published = read_runs(snakemake.input.runs), load_published(snakemake.input.published)
    grid, folder = load_grid(snakemake.config), Path(snakemake.output[0]).parent
    values = grid.model_dump(mode="json")
    write_all_tables(runs, published, folder, list(grid.sub_grids), snakemake.params.grid, values)
