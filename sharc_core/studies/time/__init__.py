"""The study `time`: what SHARC adds to the time and memory of training, and in which phase."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.loading import load_grid
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.grid.unroll import cells
from sharc_core.methods import METHODS
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import code_of_cells
from sharc_core.studies.time.settings import COLUMNS, TimeJob, TimeSettings

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("time")
class Time(Study):
    """Some cells of every data set, run one after the other on one thread, plain and with SHARC."""

    title = "Training time and memory"
    columns = COLUMNS
    no_jobs = (
        "nothing to time: the cells of time do not fit this grid (give it a block `time` to see why), or "
        "every backbone drifts"
    )

    class Settings(TimeSettings):
        """Which cells are timed and how often, under `time`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set and backbone, in the grid's order.

        Raises UserError if the grid file has a block `time` whose cells do not fit the grid.
        """
        try:
            timed = timed_cells(grid, self.settings)
        except UserError as error:
            if self.name not in grid.study_blocks:
                return []  # the defaults need not fit every grid
            raise UserError(f"config: {self.name}: {str(error).removeprefix('config: ')}") from None
        return [
            Job(
                dataset,
                backbone,
                "runs",
                TimeJob(
                    cells=[cell.model_dump(mode="json") for cell in chosen],
                    repeats=self.settings.repeats,
                    plain_runs=self.settings.plain_runs,
                ).model_dump(mode="json"),
                code_of_cells("studies.time.measure", chosen),
            )
            for (dataset, backbone), chosen in timed.items()
        ]

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Time the cells of one data set and backbone."""
        from sharc_core.studies.time.measure import run_timing

        return run_timing(features, TimeJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("time")

    def table_code(self) -> Roots:
        """Return the modules of the tables."""
        return ("studies.time.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write CPU seconds by phase, ratios of SHARC to plain, energy and peak memory."""
        from sharc_core.studies.time.table import write_time_tables

        write_time_tables(results.rows, self.settings, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of stacked bars."""
        return [f"time_phases.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.time.figure", "studies.time.table"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the CPU seconds of every cell, stacked by phase."""
        from sharc_core.studies.time.figure import write_time_figure

        write_time_figure(results.rows, folder, results.config)

    def sentences(self, results: Results) -> list[str]:
        """Return what SHARC adds to the training time, and in which phase."""
        from sharc_core.studies.time.table import sentences

        return sentences(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return a table per data set and backbone."""
        from sharc_core.studies.time.table import tables

        return tables(results.rows, self.settings)


def timed_cells(grid: Grid, settings: TimeSettings) -> dict[tuple[str, str], list[Cell]]:
    """Return the cells to time by data set and backbone: those of the grid with the study's axes.

    Cells on a drifting backbone are left out, because its features differ from seed to seed. Views beyond the
    first are not used. Raises UserError for settings that no cell of the grid can have.
    """
    without = [name for name in settings.methods if not METHODS.get(name).uses_memory]
    if without:
        raise UserError(f"methods: {without[0]} has no memory, so SHARC does not concern it: remove it")
    values = grid.without_studies()
    values |= {
        "methods": settings.methods,
        "variants": ["plain", "sharc"],
        "buffers": [settings.buffer],
        "seeds": settings.seeds,
        "protocol": ["paper"],
        "budget": {},
        "memory": {},
        "storage": "float16",
        "tuned": None,
    }
    values["sharc"] = values["sharc"] | {
        "theta": settings.theta,
        "saliency": settings.saliencies,
        "associative_memory": settings.associative_memories,
    }
    chosen: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells(load_grid(values)):
        if cell.batch_norm != "drifting":
            own = cell.model_copy(update={"views": 1, "device": "cpu"})
            chosen.setdefault((cell.dataset, cell.backbone), []).append(own)
    return chosen
