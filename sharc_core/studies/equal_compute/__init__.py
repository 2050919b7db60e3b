"""The study `equal_compute`: methods at equal numbers of gradient samples, and at equal seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.methods import METHODS
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.equal_compute.settings import COLUMNS, ComputeJob, ComputeSettings
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import code_of_cells, single_cells_of

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("equal_compute")
class EqualCompute(Study):
    """Every method with as many steps per minibatch as use the compute of the most expensive one."""

    title = "Methods at equal compute"
    explanation = (
        "Cheap methods take more steps on each minibatch of the stream, until they have used as many "
        "gradient samples (rows whose loss gradient is taken, replayed ones included), or as many CPU "
        "seconds of training, as the most expensive method with one step."
    )
    columns = COLUMNS
    no_jobs = (
        "no cell to train: no backbone of the grid has batch_norm frozen, or its buffers, scenarios or "
        "selection do not fit the study's defaults; give it a block in the grid file to see why"
    )

    class Settings(ComputeSettings):
        """What is compared, under `equal_compute`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone and scenario, whose cells share the targets.

        Raises UserError for methods that take no steps and settings that do not fit the grid, if it has the
        block.
        """
        groups: dict[tuple[str, str, str], list[Cell]] = {}
        for cell in single_cells_of(grid, self.name, self._changes(grid)):
            if cell.batch_norm == "frozen":
                self._check(cell)
                own = cell.model_copy(update={"views": 1, "device": "cpu"})
                for scenario in cell.scenarios:
                    groups.setdefault((cell.dataset, cell.backbone, scenario), []).append(own)
        return [
            Job(
                *place,
                self._settings(place[-1], cells),
                code_of_cells("studies.equal_compute.measure", cells),
            )
            for place, cells in sorted(groups.items(), key=lambda item: list(grid.datasets).index(item[0][0]))
        ]

    def _settings(self, scenario: str, cells: list[Cell]) -> dict:
        dumped = [cell.model_dump(mode="json") for cell in cells]
        job = ComputeJob(scenario=scenario, cells=dumped, repeats=self.settings.repeats)
        return job.model_dump(mode="json")

    def _check(self, cell: Cell) -> None:
        kind = METHODS.get(cell.method)
        if not (kind.trains_head and kind.uses_training):
            raise UserError(
                f"config: {self.name}: {cell.method} takes no steps of SGD on the stream, so its compute "
                "cannot be raised: take it out of methods"
            )

    def _changes(self, grid: Grid) -> dict:
        """Return what turns a grid into the study's cells, with one step per minibatch."""
        return {
            "methods": self.settings.methods,
            "variants": ["plain", "sharc"],
            "protocol": ["paper"],
            "buffers": [self.settings.buffer],
            "seeds": grid.seeds if self.settings.seeds is None else self.settings.seeds,
            "training": grid.training.model_dump() | {"steps_per_batch": 1.0},
            "tuned": None,
        }

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Train and time the cells of one data set, backbone and scenario."""
        from sharc_core.studies.equal_compute.measure import run_compute

        return run_compute(features, ComputeJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("equal_compute")

    def table_code(self) -> Roots:
        """Return the modules of the tables."""
        return "studies.equal_compute.table", "studies.equal_compute.comparison"

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write accuracies, paired differences, what is left unequal, and the sentences."""
        from sharc_core.studies.equal_compute.table import write_compute_tables

        write_compute_tables(results.rows, self.settings.reference, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of the differences."""
        return [f"equal_compute_differences.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.equal_compute.figure", "studies.equal_compute.comparison"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the differences from the plain reference under each kind of compute."""
        from sharc_core.studies.equal_compute.figure import write_compute_figure

        write_compute_figure(results.rows, self.settings.reference, folder)

    def sentences(self, results: Results) -> list[str]:
        """Return per scenario and kind of compute what is better than the reference, and SHARC's gain."""
        from sharc_core.studies.equal_compute.table import compute_findings

        return compute_findings(results.rows, self.settings.reference)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return one table per scenario and backbone."""
        from sharc_core.studies.equal_compute.table import compute_tables

        return compute_tables(results.rows, self.settings.reference)
