"""The study `capacity`: how many random patterns associative memories hold, and what theory says."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.grid.models import Grid
from sharc_core.grid.plug_in_settings import memory_of
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.capacity.settings import (
    CLASSICAL,
    COLUMNS,
    MODERN,
    PREDICTIVE,
    CapacityJob,
    CapacitySettings,
    Part,
)
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.recall import measured_pairs

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("capacity")
class Capacity(Study):
    """Random patterns in Hopfield networks and in memories with hidden units.

    No features are read. As a job needs a data set and a backbone, the rows lie under the grid's first ones.
    """

    title = "How many patterns do associative memories hold?"
    explanation = (
        "<p>Random patterns of +-1 in the classical Hopfield network, against mean-field theory; random "
        "points of a sphere in the modern one, against decoding of a random code; normal patterns in "
        "memories with hidden units, without a theory to compare with.</p>"
    )
    columns = COLUMNS
    no_jobs = "no place for the rows: every backbone of the grid drifts; use batch_norm frozen or adapted"

    class Settings(CapacitySettings):
        """What is stored, under `capacity`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per associative memory, on the grid's first data set and backbone."""
        pairs = measured_pairs(grid)
        if not pairs:
            return []
        dataset, backbone = pairs[0][0], pairs[0][1].path_name
        return [
            Job(
                dataset,
                backbone,
                memory,
                CapacityJob(
                    dataset=dataset,
                    backbone=backbone,
                    part=part,
                    memory=memory,
                    kind=kind,
                    settings=settings,
                    # other memories do not count, nor do data sets
                    study=self.settings.model_copy(update={"memories": [memory], "datasets": None}),
                ).model_dump(mode="json"),
                ("studies.capacity.measure", Path(ASSOCIATIVE_MEMORIES.module_file(kind))),
            )
            for memory, part, kind, settings in self._memories(grid)
        ]

    def _memories(self, grid: Grid) -> list[tuple[str, Part, str, dict[str, Any]]]:
        """Return name, part, kind and settings of the memories: Hopfield networks have their defaults."""
        chosen: list[tuple[str, Part, str, dict[str, Any]]] = [
            (part, part, part, ASSOCIATIVE_MEMORIES.get(part).Settings().model_dump())
            for part in (CLASSICAL, MODERN)
        ]
        for name in self.settings.memories:
            kind, settings = memory_of(grid.sharc, name, f"{self.name}.memories")
            if "hidden" not in settings:
                raise UserError(
                    f"config: {self.name}.memories: {name} has no hidden units to vary: remove it (Hopfield "
                    "networks are always measured)"
                )
            chosen.append((name, PREDICTIVE, kind, settings))
        return chosen

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Store and recall random patterns in one memory."""
        from sharc_core.studies.capacity.measure import run_capacity

        return run_capacity(CapacityJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("capacity")

    def table_code(self) -> Roots:
        """Return the module of the tables."""
        return ("studies.capacity.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write capacities, their theory and their growth."""
        from sharc_core.studies.capacity.table import write_capacity_tables

        write_capacity_tables(results.rows, self.settings, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of all curves."""
        return [f"capacity_curves.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.capacity.figure", "studies.capacity.table"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw error against load, and patterns against size."""
        from sharc_core.studies.capacity.figure import write_capacity_figure

        write_capacity_figure(results.rows, self.settings, folder, results.config)

    def sentences(self, results: Results) -> list[str]:
        """Return where the error of every memory crosses its level, and how that grows with its size."""
        from sharc_core.studies.capacity.table import sentences

        return sentences(results.rows, self.settings)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return a table of capacities and one of their growth."""
        from sharc_core.studies.capacity.table import tables

        return tables(results.rows, self.settings)
