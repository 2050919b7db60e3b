"""The study `architectures`: what SHARC gains with other networks, and what their maps have to do with it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import nearest
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.methods import METHODS
from sharc_core.studies.architectures.settings import (
    COLUMNS,
    JOINT,
    SCENARIO,
    UNIT,
    ArchitecturesJob,
    ArchitecturesSettings,
)
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import cells_of, code_of_cells

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("architectures")
class Architectures(Study):
    """JOINT and replay plain and with SHARC on every backbone of the grid, next to measures of its maps."""

    title = "What does SHARC gain with other architectures?"
    explanation = (
        "Replay in Class-IL at equal floats on the maps of every backbone of the grid, with the share of "
        "zeros in the maps, their number of channels, and the bytes that lossless compression saves. JOINT "
        "and plain replay each choose a learning rate per network and data set, on held-out training images; "
        "SHARC has the rate of plain replay."
    )
    columns = COLUMNS
    no_jobs = (
        "no cell to train: every backbone of the grid drifts, or its buffers, scenarios or selection do not "
        "fit the study's defaults; give it a block in the grid file to see why"
    )

    class Settings(ArchitecturesSettings):
        """What is trained and measured, under `architectures`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set and backbone.

        Raises UserError for settings that do not fit the grid, if the grid file has the block.
        """
        pretrained = {backbone.path_name: backbone.weights == "pretrain" for backbone in grid.all_backbones}
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells_of(grid, self.name, self._changes(grid)):
            self._check_method(cell)
            self._check_seeds(cell)
            own = cell.model_copy(update={"views": 1})
            groups.setdefault((cell.dataset, cell.backbone), []).append(own)
        self._check_contrasts(grid, list(dict.fromkeys(backbone for _, backbone in groups)))
        return [
            Job(
                dataset,
                backbone,
                "cells",
                ArchitecturesJob(
                    cells=[cell.model_dump(mode="json") for cell in cells],
                    cards=str(Path(grid.data_dir) / "backbones") if pretrained.get(backbone) else None,
                    maps=self.settings.maps,
                    rates=self.settings.rates,
                    rate_seeds=self.settings.rate_seeds,
                ).model_dump(mode="json"),
                code_of_cells("studies.architectures.measure", cells),
            )
            for (dataset, backbone), cells in groups.items()
        ]

    def _check_method(self, cell: Cell) -> None:
        method = METHODS.get(cell.method)
        if cell.method != JOINT and not (method.uses_memory and method.trains_head and method.uses_training):
            raise UserError(
                f"config: {self.name}: {cell.method} does not train a head on the stream with replay: choose "
                "another method"
            )

    def _check_seeds(self, cell: Cell) -> None:
        both = [seed for seed in self.settings.rate_seeds if seed in cell.seeds]
        if both:
            raise UserError(
                f"config: {self.name}.rate_seeds: {both[0]} is also a seed of the compared runs: choose the "
                "rates with other seeds"
            )

    def _check_contrasts(self, grid: Grid, backbones: list[str]) -> None:
        for name in (name for pair in self.settings.contrasts for name in pair):
            if name not in backbones and self.name in grid.study_blocks:
                raise UserError(
                    f"config: {self.name}.contrasts: the study has no backbone {shown(name)}"
                    f"{nearest(name, backbones)}; it has: {', '.join(backbones)}"
                )

    def _changes(self, grid: Grid) -> dict[str, Any]:
        """Return what turns a grid into the study's cells."""
        settings = self.settings
        return {
            "methods": [JOINT, settings.method],
            "variants": ["plain", "sharc"],
            "scenarios": [SCENARIO],
            "protocol": ["paper"],
            "buffers": [settings.buffer],
            "budget": {"unit": UNIT, "count_associative_memory": False},
            "storage": "float16",
            "seeds": grid.seeds if settings.seeds is None else settings.seeds,
            "sharc": {
                "theta": settings.thetas,
                "associative_memory": settings.associative_memories,
                "saliency": "gradient",
            },
            "tuned": None,
        }

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Measure the maps of one network on one data set, and train the cells on them."""
        from sharc_core.studies.architectures.measure import run_architecture

        return run_architecture(features, ArchitecturesJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("architectures")

    def table_code(self) -> Roots:
        """Return the modules of the tables."""
        return "studies.architectures.table", "studies.architectures.findings"

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write measures of the maps, gains, contrasts, correlations and the sentences."""
        from sharc_core.studies.architectures.table import write_architecture_tables

        write_architecture_tables(results.rows, folder, self.settings.contrasts, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of the gains."""
        return [f"architectures_gain.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of its words."""
        return "studies.architectures.figure", "studies.architectures.findings"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw SHARC's gain by network."""
        from sharc_core.studies.architectures.figure import write_architecture_figure

        write_architecture_figure(results.rows, folder, self.settings.contrasts)

    def sentences(self, results: Results) -> list[str]:
        """Return with which networks SHARC gains, and what the gain goes with."""
        from sharc_core.studies.architectures.findings import architecture_findings

        return architecture_findings(results.rows, self.settings.contrasts)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return the tables of networks, gains, contrasts and correlations."""
        from sharc_core.studies.architectures.table import architecture_tables

        return architecture_tables(results.rows, self.settings.contrasts)
