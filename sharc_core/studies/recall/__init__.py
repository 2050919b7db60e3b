"""The recall study: how well each associative memory completes real maps, measured on its own."""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.own_features import OwnFeatures
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.plug_in_settings import memory_of
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.provenance.code_hashes import job_hash
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Stage, Study
from sharc_core.studies.recall.settings import COLUMNS, RecallJob, RecallSettings

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features

SWEEPS = ("masked", "noise", "patterns", "tasks")


@STUDIES.register("recall")
class Recall(Study):
    """Every associative memory of the grid on maps of every data set."""

    title = "Recall of associative memories"
    is_part_of_all = False  # it takes longer than the cells of most grids
    columns = COLUMNS
    no_jobs = (
        "nothing to recall: every backbone of the grid drifts, and its maps differ from seed to seed; use "
        "batch_norm frozen or adapted"
    )

    class Settings(RecallSettings):
        """The points to measure, under `recall`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone and associative memory, in the grid's order."""
        return [
            Job(
                job.dataset,
                job.backbone,
                job.associative_memory,
                job.model_dump(mode="json"),
                _code(job.memory_kind),
            )
            for job in recall_jobs(grid, self.settings)
        ]

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Measure one associative memory at all points and seeds."""
        from sharc_core.studies.recall.measure import run_recall

        return run_recall(features, RecallJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return [f"recall.{kind}" for kind in ("csv", "md", "tex")]

    def table_code(self) -> Roots:
        """Return the module of the tables."""
        return ("studies.recall.table",)

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write the means over seeds at the fixed mask."""
        from sharc_core.studies.recall.table import write_recall_tables

        write_recall_tables(results.rows, self.settings, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure per sweep."""
        return [f"recall_{sweep}.{kind}" for sweep in SWEEPS for kind in DRAWN]

    def figure_code(self) -> Roots:
        """Return the modules of the figures and of what they show."""
        return "studies.recall.figures", "studies.recall.table"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw measures and costs along every sweep."""
        from sharc_core.studies.recall.figures import write_recall_figures

        write_recall_figures(results.rows, folder)

    def stages(self, grid: Grid) -> list[Stage]:
        """Return tables, figures, and pictures of digits with what each associative memory recalls."""
        memories = memory_settings(grid)
        kinds = sorted({values["kind"] for values in memories.values()})
        pictures = Stage(
            name="pictures",
            files=[f"figures/recall_pictures.{kind}" for kind in DRAWN],
            write=partial(self._write_pictures, memories),
            code=("studies.recall.figures",),
            made_from=[
                memories,
                [self.settings.pictures, self.settings.side],
                {kind: job_hash(*_code(kind)) for kind in kinds},
            ],
            reads_rows=False,
            mem_mb=4000,
            minutes=120,
        )
        return [*super().stages(grid), pictures]

    def _write_pictures(self, memories: dict[str, dict[str, Any]], results: Results, folder: Path) -> None:
        from sharc_core.studies.recall.figures import write_picture_figure
        from sharc_core.studies.recall.pictures import recall_pictures

        recalls = recall_pictures(memories, self.settings.pictures, self.settings.side)
        write_picture_figure(recalls, folder / "figures")


def memory_settings(grid: Grid) -> dict[str, dict[str, Any]]:
    """Return kind and complete settings of every associative memory that the grid names, in its order."""
    memories = {}
    for name in listed(grid.sharc.associative_memory):
        kind, settings = memory_of(grid.sharc, name)
        memories[name] = {"kind": kind, **settings}
    return memories


def measured_pairs(grid: Grid) -> list[tuple[str, BackboneConfig | OwnFeatures]]:
    """Return data sets and backbones whose maps are recalled.

    A drifting backbone has different maps for every seed.
    """
    pairs = [(name, backbone) for name in grid.datasets for backbone in grid.backbones_of(name)]
    return [(name, backbone) for name, backbone in pairs if backbone.batch_norm != "drifting"]


def recall_jobs(grid: Grid, settings: RecallSettings) -> list[RecallJob]:
    """Return the typed settings of every job, in the grid's order."""
    return [
        RecallJob(
            dataset=name,
            stream=grid.datasets[name].stream,
            backbone=backbone.path_name,
            associative_memory=memory,
            associative_kind=values["kind"],
            associative_settings={key: value for key, value in values.items() if key != "kind"},
            training=grid.training,
            study=settings,
        )
        for (name, backbone), (memory, values) in product(measured_pairs(grid), memory_settings(grid).items())
    ]


def _code(kind: str) -> Roots:
    """Return roots of the code that a job of a kind of associative memory depends on."""
    return "studies.recall.measure", Path(ASSOCIATIVE_MEMORIES.module_file(kind))
