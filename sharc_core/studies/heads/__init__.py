"""The study `heads`: linear, MLP and cosine heads, with and without correction of their bias."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.heads import HEADS
from sharc_core.methods import METHODS
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.heads.settings import COLUMNS, NONE, SCENARIO, HeadsJob, HeadsSettings
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import code_of_cells, single_cells_of

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("heads")
class Heads(Study):
    """Replay plain and with SHARC under every head and correction, in Class-IL.

    It is no sub-grid because the head is no axis of a grid: cells that differ in it alone have one name.
    """

    title = "Which head, and does correcting its bias help?"
    explanation = (
        "Replay in Class-IL with a linear, an MLP and a cosine head. Weight alignment scales the output "
        "weights of a task's new classes to the length of those of older ones. A cosine head ignores "
        "lengths, so that it has nothing to align."
    )
    columns = COLUMNS
    no_jobs = (
        "no cell to train: every backbone of the grid drifts, or its buffers, scenarios or selection do not "
        "fit the study's defaults; give it a block in the grid file to see why"
    )

    class Settings(HeadsSettings):
        """What is compared, under `heads`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone and kind of head, with all corrections.

        Raises UserError for settings that do not fit the grid, if the grid file has the block.
        """
        groups: dict[tuple[str, str, str], list[Cell]] = {}
        for kind in self.settings.heads:
            for head in self._heads(grid, kind):
                for cell in single_cells_of(grid, self.name, self._changes(grid, head)):
                    self._check(cell)
                    own = cell.model_copy(update={"views": 1})
                    groups.setdefault((cell.dataset, cell.backbone, kind), []).append(own)
        order = list(grid.datasets)
        return [
            Job(
                *place,
                HeadsJob(cells=[cell.model_dump(mode="json") for cell in cells]).model_dump(mode="json"),
                code_of_cells("studies.heads.measure", cells),
            )
            for place, cells in sorted(groups.items(), key=lambda item: order.index(item[0][0]))
        ]

    def _heads(self, grid: Grid, kind: str) -> list[dict[str, Any]]:
        """Return the values of the key `head` for a kind: corrections, and scales of a cosine head."""
        corrections = self.settings.corrections if HEADS[kind].has_lengths else [NONE]
        own = {"kind": kind, "hidden": grid.head.hidden}
        heads = [own | {"bias_correction": correction} for correction in corrections]
        if kind == "cosine":
            return [head | {"scale": scale} for head in heads for scale in self.settings.scales]
        return heads

    def _check(self, cell: Cell) -> None:
        method = METHODS.get(cell.method)
        if not (method.uses_memory and method.trains_head and method.uses_training):
            raise UserError(
                f"config: {self.name}: {cell.method} does not train a head on the stream with replay: take "
                "it out of methods"
            )

    def _changes(self, grid: Grid, head: dict[str, Any]) -> dict[str, Any]:
        """Return what turns a grid into the study's cells with a head."""
        settings = self.settings
        return {
            "methods": settings.methods,
            "variants": ["plain", "sharc"],
            "scenarios": [SCENARIO],
            "protocol": ["paper"],
            "head": head,
            "buffers": [settings.buffer],
            "seeds": grid.seeds if settings.seeds is None else settings.seeds,
            "tuned": None,
        }

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Train the cells of one kind of head."""
        from sharc_core.studies.heads.measure import run_heads

        return run_heads(features, HeadsJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("heads")

    def table_code(self) -> Roots:
        """Return the modules of the tables."""
        return "studies.heads.table", "studies.heads.comparison"

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write accuracies, biases, paired differences and the sentences."""
        from sharc_core.studies.heads.table import write_heads_tables

        write_heads_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of the accuracies."""
        return [f"heads_acc.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.heads.figure", "studies.heads.comparison"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the ACC of every head and correction, plain and with SHARC."""
        from sharc_core.studies.heads.figure import write_heads_figure

        write_heads_figure(results.rows, folder)

    def sentences(self, results: Results) -> list[str]:
        """Return which heads and corrections are told apart, and SHARC's gain with each of them."""
        from sharc_core.studies.heads.table import heads_findings

        return heads_findings(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return one table per backbone and method."""
        from sharc_core.studies.heads.table import heads_tables

        return heads_tables(results.rows)
