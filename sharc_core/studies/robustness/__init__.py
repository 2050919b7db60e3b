"""The study `robustness`: recall from cues that differ from those that SHARC stores."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.grid.models import Grid
from sharc_core.grid.plug_in_settings import memory_of
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.memory_bound import all_memories
from sharc_core.studies.recall import measured_pairs
from sharc_core.studies.robustness.settings import COLUMNS, RobustnessJob, RobustnessSettings

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("robustness")
class Robustness(Study):
    """Every associative memory on real maps of every data set, from eight kinds of cue."""

    title = "How robust is recall?"
    explanation = (
        "<p>Associative memories hold maps of half of the classes. Cues are the channels that saliency keeps "
        "(as in SHARC), random channels, maps that lack a run of channels or a rectangle of positions, cues "
        "with wrong values among the kept ones, and cues of images that are not stored.</p>"
    )
    columns = COLUMNS
    no_jobs = (
        "nothing to recall: every backbone of the grid drifts, and its maps differ from seed to seed; use "
        "batch_norm frozen or adapted"
    )

    class Settings(RobustnessSettings):
        """What is stored and read, under `robustness`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set and backbone, in the grid's order."""
        memories = self._memories(grid)
        return [
            Job(
                name,
                backbone.path_name,
                "cues",
                RobustnessJob(
                    dataset=name,
                    backbone=backbone.path_name,
                    stream=grid.datasets[name].stream,
                    training=grid.training,
                    memories=memories,
                    study=self.settings.model_copy(update={"datasets": None}),  # no setting of a job
                ).model_dump(mode="json"),
                _code(memories),
            )
            for name, backbone in measured_pairs(grid)
        ]

    def _memories(self, grid: Grid) -> dict[str, dict[str, Any]]:
        """Return kind and settings of the memories to read, by name. Raises UserError for an unknown name."""
        if self.settings.memories is None:
            return all_memories(grid)
        memories = {}
        for name in self.settings.memories:
            kind, settings = memory_of(grid.sharc, name, f"{self.name}.memories")
            memories[name] = {"kind": kind, **settings}
        return memories

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Read every memory from every kind of cue."""
        from sharc_core.studies.robustness.measure import run_robustness

        return run_robustness(features, RobustnessJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("robustness")

    def table_code(self) -> Roots:
        """Return the module of the tables."""
        return ("studies.robustness.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write errors, accuracies, their differences from the baseline, and the sentences."""
        from sharc_core.studies.robustness.table import write_robustness_tables

        write_robustness_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure."""
        return [f"robustness_cues.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.robustness.figure", "studies.robustness.table"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw error and accuracy of every memory by kind of cue."""
        from sharc_core.studies.robustness.figure import write_robustness_figure

        write_robustness_figure(results.rows, folder, results.config)

    def sentences(self, results: Results) -> list[str]:
        """Return per kind of cue which memories it affects, and what comes back for other classes."""
        from sharc_core.studies.robustness.table import sentences

        return sentences(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return a table per data set, backbone and theta."""
        from sharc_core.studies.robustness.table import tables

        return tables(results.rows)


def _code(memories: dict[str, dict[str, Any]]) -> Roots:
    """Return roots of the code that the rows depend on."""
    files = {ASSOCIATIVE_MEMORIES.module_file(values["kind"]) for values in memories.values()}
    return "studies.robustness.measure", *(Path(file) for file in sorted(files))
