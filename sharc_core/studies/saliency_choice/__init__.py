"""The study `saliency_choice`: which saliency serves SHARC best, at equal floats and at equal total bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.memory.budget_units import is_size
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import cells_of, code_of_cells
from sharc_core.studies.saliency_choice.settings import COLUMNS, ChoiceJob, ChoiceSettings, Limit

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("saliency_choice")
class SaliencyChoice(Study):
    """Replay with SHARC under every saliency, two kinds of theta and of head.

    It is no sub-grid because the head is no axis of a grid: cells that differ in it alone have one name.
    """

    title = "Which saliency serves SHARC best?"
    explanation = (
        "Replay with SHARC under every saliency, in budgets of equal floats (without the associative "
        "memory's state) and of equal total bytes (with it). <em>random</em> drops channels at random."
    )
    columns = COLUMNS
    no_jobs = (
        "no cell to train: every backbone of the grid drifts, or its buffers, scenarios or selection do not "
        "fit the study's defaults; give it a block in the grid file to see why"
    )

    class Settings(ChoiceSettings):
        """What is compared, under `saliency_choice`."""

        @field_validator("budgets", mode="before")
        @classmethod
        def _sizes_are_total_bytes(cls, value: Any) -> Any:
            """Refuse a size such as 500 kB where a buffer is a number of slots, as a grid does."""
            limits = [limit for limit in value if isinstance(limit, dict)] if isinstance(value, list) else []
            for limit in limits:
                unit = limit.get("unit", "floats")
                if unit != "total_bytes" and is_size(limit.get("buffer")):
                    raise ValueError(f"{limit['buffer']} is a size: it needs unit total_bytes, not {unit}")
            return value

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone, head and saliency, and one of their plain cells."""
        groups: dict[tuple[str, str, str], list[Cell]] = {}
        for kind in self.settings.heads:
            for limit in self.settings.budgets:
                for cell in cells_of(grid, self.name, self._changes(grid, kind, limit)):
                    name = f"{kind}-{cell.saliency or cell.variant}"
                    group = groups.setdefault((cell.dataset, cell.backbone, name), [])
                    if cell not in group:  # budgets may differ in the charge of a memory that plain runs lack
                        group.append(cell)
        order = {name: number for number, name in enumerate(grid.datasets)}
        return [
            Job(
                *place,
                ChoiceJob(cells=[cell.model_dump(mode="json") for cell in cells]).model_dump(mode="json"),
                code_of_cells("studies.saliency_choice.measure", cells),
            )
            for place, cells in sorted(groups.items(), key=lambda item: order[item[0][0]])
        ]

    def trained(self, grid: Grid) -> list[Cell]:
        """Return the cells of all jobs."""
        jobs = [ChoiceJob.model_validate(dict(job.settings)) for job in self.chosen_jobs(grid)]
        return [cell for job in jobs for cell in job.opened]

    def _changes(self, grid: Grid, kind: str, limit: Limit) -> dict[str, Any]:
        """Return what turns a grid into the study's cells with a kind of head and a budget."""
        settings = self.settings
        return {
            "methods": settings.methods,
            "variants": ["plain", "sharc"],
            "protocol": ["paper"],
            "head": {"kind": kind, "hidden": grid.head.hidden},
            "seeds": grid.seeds if settings.seeds is None else settings.seeds,
            "buffers": [limit.buffer],
            "budget": limit.model_dump(exclude={"buffer"}),
            "storage": "float16",
            "sharc": {
                "theta": settings.model_dump()["theta"],
                "saliency": settings.names,
                "associative_memory": settings.associative_memory,
            },
            "tuned": None,
        }

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Train the cells of one saliency."""
        from sharc_core.studies.saliency_choice.measure import run_choice

        return run_choice(features, ChoiceJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("saliency_choice")

    def table_code(self) -> Roots:
        """Return the module of the tables."""
        return ("studies.saliency_choice.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write accuracies, paired differences and the sentences."""
        from sharc_core.studies.saliency_choice.table import write_choice_tables

        write_choice_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of the differences."""
        return [f"saliency_choice_differences.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the module of the figure."""
        return ("studies.saliency_choice.figure",)

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw the differences from the paper's saliency."""
        from sharc_core.studies.saliency_choice.figure import write_choice_figure

        write_choice_figure(results.rows, folder)

    def sentences(self, results: Results) -> list[str]:
        """Return per scenario, budget, theta and memory what is told apart from the paper's saliency."""
        from sharc_core.studies.saliency_choice.table import choice_findings

        return choice_findings(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return one table per scenario, head and budget."""
        from sharc_core.studies.saliency_choice.table import choice_tables

        return choice_tables(results.rows)
