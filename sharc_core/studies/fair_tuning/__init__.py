"""The study `fair_tuning`: the ranking with published settings, and with settings tuned for every method."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.grid.tuned import can_be_tuned
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.fair_tuning.settings import COLUMNS, FairJob, FairSettings
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import code_of_cells, single_cells_of
from sharc_core.studies.tune.search import check_sampler, check_search

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("fair_tuning")
class FairTuning(Study):
    """Every method plain and with SHARC, tuned in the same number of trials, then tested."""

    title = "Does the ranking survive tuning?"
    explanation = (
        "Methods are ranked by ACC on the test images with their published settings, and with the best of "
        "the same number of trials on held-out training images. Kendall's tau compares the two rankings: 1 "
        "for the same order, 0 for no relation, -1 for the inverse order."
    )
    columns = COLUMNS
    no_jobs = (
        "no cell to tune: no backbone of the grid has batch_norm frozen, or its buffers, scenarios or "
        "selection do not fit the study's defaults; give it a block in the grid file to see why"
    )

    class Settings(FairSettings):
        """What is ranked and how it is tuned, under `fair_tuning`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone and method, with its plain and SHARC cells.

        Raises UserError for settings that do not fit a cell or the grid, if the grid file has the block.
        """
        search = self.settings.search
        check_sampler(search, self.name)
        groups: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in single_cells_of(grid, self.name, self._changes(grid)):
            if cell.batch_norm == "frozen":
                self._check(cell)
                groups.setdefault((cell.dataset, cell.backbone, cell.method), []).append(cell)
        return [
            Job(
                *place,
                FairJob(cells=[cell.model_dump(mode="json") for cell in cells], tune=search).model_dump(
                    mode="json"
                ),
                code_of_cells("studies.fair_tuning.measure", cells),
            )
            for place, cells in groups.items()
        ]

    def _check(self, cell: Cell) -> None:
        if not can_be_tuned(cell, self.settings.settings):
            raise UserError(
                f"config: {self.name}: no setting concerns {cell.method}: add one to "
                f"{self.name}.settings, or remove the method"
            )
        try:
            check_search(self.settings.search, cell)
        except UserError as error:
            raise UserError(f"config: {self.name}: {error}") from None

    def _changes(self, grid: Grid) -> dict:
        """Return what turns a grid into the study's cells."""
        return {
            "methods": self.settings.methods,
            "variants": ["plain", "sharc"],
            "protocol": ["paper"],
            "buffers": [self.settings.buffer],
            "tuned": None,
        }

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Tune and test the cells of one method."""
        from sharc_core.studies.fair_tuning.measure import run_fair

        return run_fair(features, FairJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("fair_tuning")

    def table_code(self) -> Roots:
        """Return the modules of the tables."""
        return "studies.fair_tuning.table", "studies.fair_tuning.rankings"

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write both rankings, paired differences, Kendall's tau and the sentences."""
        from sharc_core.studies.fair_tuning.table import write_fair_tables

        write_fair_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of both rankings."""
        return [f"fair_tuning_rankings.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.fair_tuning.figure", "studies.fair_tuning.rankings"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the ACC with published and with tuned settings."""
        from sharc_core.studies.fair_tuning.figure import write_fair_figure

        write_fair_figure(results.rows, folder)

    def sentences(self, results: Results) -> list[str]:
        """Return Kendall's tau, reversed pairs and SHARC's gain, per scenario."""
        from sharc_core.studies.fair_tuning.table import fair_findings

        return fair_findings(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return one table per backbone and scenario."""
        from sharc_core.studies.fair_tuning.table import fair_tables

        return fair_tables(results.rows)
