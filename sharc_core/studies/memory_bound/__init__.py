"""The study `memory_bound`: how much memory dropping channels can save at most, and what is saved."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.plug_in_settings import memory_of
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.representations import REPRESENTATIONS
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.memory_bound.settings import COLUMNS, MemoryBoundJob, MemoryBoundSettings
from sharc_core.studies.recall import measured_pairs

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("memory_bound")
class MemoryBound(Study):
    """Real maps of every data set at every theta: stored, compressed, and what no code can go below."""

    title = "How much memory dropping channels can save"
    explanation = (
        "<p>Bytes of a stored map against the share theta of its channels that is dropped, and three lower "
        "bounds, each for one kind of code: codes that hold every map, codes of single values that know the "
        "share of zeros and nothing else, and codes of single values with one distribution for all values. "
        "Compressors know more and may go below them. docs/memory_bound.md has the proofs.</p>"
    )
    columns = COLUMNS
    no_jobs = (
        "nothing to measure: every backbone of the grid drifts, and its maps differ from seed to seed; use "
        "batch_norm frozen or adapted"
    )

    class Settings(MemoryBoundSettings):
        """What is stored and compressed, under `memory_bound`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set and backbone, in the grid's order."""
        memories = all_memories(grid)
        settings = self.settings.model_copy(update={"datasets": None})  # no setting of a job
        return [
            Job(
                name,
                backbone.path_name,
                "maps",
                MemoryBoundJob(
                    dataset=name,
                    backbone=backbone.path_name,
                    stream=grid.datasets[name].stream,
                    training=grid.training,
                    memories=memories,
                    study=settings,
                ).model_dump(mode="json"),
                _code(memories, settings),
            )
            for name, backbone in measured_pairs(grid)
        ]

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Store and compress the maps of one data set and backbone."""
        from sharc_core.studies.memory_bound.measure import run_bounds

        return run_bounds(features, MemoryBoundJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("memory_bound")

    def table_code(self) -> Roots:
        """Return the module of the tables."""
        return ("studies.memory_bound.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write bytes, bounds and the break-even of every associative memory."""
        from sharc_core.studies.memory_bound.table import write_bound_tables

        write_bound_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure."""
        return [f"memory_bound_theta.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of its words."""
        return "studies.memory_bound.figure", "studies.memory_bound.table"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw bytes per map against theta."""
        from sharc_core.studies.memory_bound.figure import write_bound_figure

        write_bound_figure(results.rows, folder, results.config)

    def sentences(self, results: Results) -> list[str]:
        """Return what compression saves without SHARC, and when an associative memory is paid back."""
        from sharc_core.studies.memory_bound.table import sentences

        return sentences(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return a table of bytes and one of memories per data set and backbone."""
        from sharc_core.studies.memory_bound.table import tables

        return tables(results.rows)


def all_memories(grid: Grid) -> dict[str, dict[str, Any]]:
    """Return kind and settings of every registered associative memory, and of those that the grid names."""
    names = dict.fromkeys([*ASSOCIATIVE_MEMORIES.names(), *listed(grid.sharc.associative_memory)])
    memories = {}
    for name in names:
        kind, settings = memory_of(grid.sharc, name)
        memories[name] = {"kind": kind, **settings}
    return memories


def _code(memories: dict[str, dict[str, Any]], settings: MemoryBoundSettings) -> Roots:
    """Return roots of the code that the rows depend on."""
    files = {ASSOCIATIVE_MEMORIES.module_file(values["kind"]) for values in memories.values()}
    files |= {REPRESENTATIONS.module_file(name) for name in settings.storages}
    return "studies.memory_bound.measure", *(Path(file) for file in sorted(files))
