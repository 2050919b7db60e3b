"""The study `tune`: settings chosen on validation data, with the same number of trials for every method."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.grid.tuned import can_be_tuned
from sharc_core.grid.unroll import cells
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.parts import code_of_cells
from sharc_core.studies.tune.search import check_sampler, check_search
from sharc_core.studies.tune.settings import COLUMNS, SAME, TuneJob, TuneSettings

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features


@STUDIES.register("tune")
class Tune(Study):
    """Every cell of the grid that has a setting to tune. `tuned` in a grid file takes what it chose."""

    title = "Tuned settings"
    is_part_of_all = False  # it takes longer than the cells, which are trained once per seed
    columns = COLUMNS
    no_jobs = (
        "nothing to tune: no setting of tune.settings concerns a cell of the grid, or no backbone has "
        "batch_norm frozen, whose features do not depend on held-out images"
    )

    class Settings(TuneSettings):
        """What is tuned and how, under `tune`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per cell that has a setting to tune, in the grid's order.

        Raises UserError for a value that a cell cannot have, a grid search that does not fit `trials`, and
        for Optuna if it is not installed.
        """
        return [
            Job(
                cell.dataset,
                cell.backbone,
                cell.id,
                self._settings(cell),
                code_of_cells("studies.tune.measure", [cell]),
            )
            for cell in self._tunable(grid)
        ]

    def _tunable(self, grid: Grid) -> list[Cell]:
        """Return the cells that are tuned, with values as in the grid file."""
        check_sampler(self.settings, self.name)
        found = []
        for cell in cells(grid.model_copy(update={"tuned": None})):
            if not can_be_tuned(cell, self.settings.settings):
                continue
            if self.settings.select_by == SAME and SAME not in cell.scenarios:
                raise UserError(
                    f"config: tune.select_by: {SAME} is no scenario of {cell.dataset}: use class_il"
                )
            try:
                check_search(self.settings, cell)
            except UserError as error:
                raise UserError(f"config: tune: {error}") from None
            found.append(cell)
        return found

    def _settings(self, cell: Cell) -> dict:
        """Return the settings of a cell's job. The grid's seeds are not part of them."""
        trained = cell.model_copy(update={"seeds": self.settings.seeds})
        return TuneJob(cell=trained.model_dump(mode="json"), tune=self.settings).model_dump(mode="json")

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Run all trials of one cell."""
        from sharc_core.studies.tune.measure import run_tuning

        return run_tuning(features, TuneJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats, and the file of the chosen settings."""
        return [f"tune.{kind}" for kind in ("csv", "md", "tex", "json")]

    def table_code(self) -> Roots:
        """Return the module of the tables."""
        return ("studies.tune.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write the chosen settings with their accuracies and the spread of all trials."""
        from sharc_core.studies.tune.table import write_tune_tables

        write_tune_tables(results.rows, self.settings, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of all trials."""
        return [f"tune_trials.{kind}" for kind in DRAWN]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.tune.figure", "studies.tune.table"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the accuracy of every trial."""
        from sharc_core.studies.tune.figure import write_tune_figure

        write_tune_figure(results.rows, folder)
