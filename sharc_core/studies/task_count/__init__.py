"""The study `task_count`: what happens to accuracy, memory and time as a stream gets longer."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.common.errors import UserError
from sharc_core.common.registry import nearest
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.plug_in_settings import memory_of
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.methods import METHODS
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.parts import cells_of, code_of_cells
from sharc_core.studies.task_count.settings import COLUMNS, CountJob, CountSettings

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table

MOST_MEMORY, MOST_MINUTES = 16_000, 480  # of a job of thousands of classes
PAPERS_SELECTION = "last"
STREAM = {"order": "tasks", "blurry": None}  # keys of a stream that the study resets


@STUDIES.register("task_count")
class TaskCount(Study):
    """Streams of more and more tasks of equally many classes, plain and with SHARC."""

    title = "Longer and longer streams"
    explanation = (
        "<p>Every stream begins like the next longer one and has more tasks of as many classes. The buffer "
        "grows with the classes. Chance: a guess among all classes (Class-IL) or those of a task (Task-IL). "
        "Seconds of training, testing and the rest are the processor's.</p>"
    )
    columns = COLUMNS
    no_jobs = (
        "no stream to run: no data set of the grid has the classes of the shortest one, or the study's cells "
        "do not fit the grid; lower task_count.tasks, or give the study a block in the grid file to see why"
    )

    class Settings(CountSettings):
        """Which streams and cells are run, under `task_count`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone, length of the stream and method.

        Raises UserError if the grid file has a block `task_count` whose cells do not fit the grid.
        """
        names, settings = _classes(grid), self.settings
        self._check(grid)
        jobs = []
        for name, count in names.items():
            for tasks in settings.tasks:
                classes = tasks * settings.classes_per_task
                if classes <= count:
                    jobs += self._jobs_of(grid, name, tasks, classes)
        return jobs

    def _check(self, grid: Grid) -> None:
        """Refuse names and forgetting that would have no effect. Raises UserError."""
        settings = self.settings
        known = {*METHODS.names(), *settings.associative_memories}
        unknown = [name for name in settings.most_tasks if name not in known]
        if unknown:
            raise UserError(
                f"config: {self.name}.most_tasks: {unknown[0]!r} is no method and none of the study's "
                f"associative memories{nearest(unknown[0], sorted(known))}: remove it"
            )
        for name, methods in settings.methods_of.items():
            lists = [
                (name, settings.associative_memories),
                *((method, settings.methods) for method in methods),
            ]
            for word, valid in lists:
                if word not in valid:
                    raise UserError(
                        f"config: {self.name}.methods_of: {word!r} is not in the study's list"
                        f"{nearest(word, sorted(valid))}; it has: {', '.join(valid)}"
                    )
        key = f"{self.name}.associative_memories"
        forgetful = [_forgets(grid, name, key) for name in settings.associative_memories]
        numbers = [every for every in settings.forget_every if every is not None]
        if numbers and not any(forgetful):
            raise UserError(
                f"config: {self.name}.forget_every: {numbers[0]} has no effect, because none of the study's "
                f"associative memories can forget ({', '.join(settings.associative_memories)}): remove it or "
                "add another memory, such as mean"
            )

    def _jobs_of(self, grid: Grid, dataset: str, tasks: int, classes: int) -> list[Job]:
        """Return the jobs on one stream, by backbone and method."""
        stream = grid.datasets[dataset].model_copy(update=STREAM | {"tasks": tasks})
        part = grid.model_copy(update={"datasets": {dataset: stream}})
        groups: dict[tuple[str, str], list[Cell]] = {}
        for cell in self._cells(part, tasks, classes):
            groups.setdefault((cell.backbone, cell.method), []).append(cell)
        share = min(1.0, classes / 2000)
        return [
            Job(
                dataset,
                backbone,
                f"{tasks}-{method}",
                CountJob(cells=[c.model_dump(mode="json") for c in cells], classes=classes).model_dump(
                    mode="json"
                ),
                code_of_cells("studies.task_count.measure", cells),
                mem_mb=max(4000, round(share * MOST_MEMORY)),
                minutes=max(120, round(share * MOST_MINUTES)),
            )
            for (backbone, method), cells in groups.items()
        ]

    def _cells(self, grid: Grid, tasks: int, classes: int) -> list[Cell]:
        """Return the cells on one stream: plain ones, then those of each memory and kind of forgetting."""
        settings = self.settings
        memories = self._up_to(settings.associative_memories, tasks)
        common: dict[str, Any] = {
            "seeds": grid.seeds if settings.seeds is None else settings.seeds,
            "buffers": [settings.samples_per_class * classes],
            "protocol": ["paper"],
            "budget": {},
            "storage": "float16",
            "tuned": None,
        }
        made: list[Cell] = []
        for method in self._up_to(settings.methods, tasks):
            changes = common | {"methods": [method], "memory": {"selection": _selection(method)}}
            made += cells_of(grid, self.name, changes | {"variants": ["plain"]})
            if not METHODS.get(method).uses_memory:
                continue
            for every in settings.forget_every:
                chosen = [
                    name
                    for name in memories
                    if method in settings.methods_of.get(name, [method])
                    and (every is None or _forgets(grid, name, self.name))
                ]
                if chosen:
                    forget = grid.sharc.forget.model_dump() | {"every": every}
                    sharc = {"theta": settings.theta, "associative_memory": chosen, "forget": forget}
                    made += cells_of(grid, self.name, changes | {"variants": ["sharc"], "sharc": sharc})
        return [cell.model_copy(update={"views": 1, "device": "cpu"}) for cell in made]

    def _up_to(self, names: list[str], tasks: int) -> list[str]:
        return [name for name in names if tasks <= self.settings.most_tasks.get(name, tasks)]

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Run one method on one stream."""
        from sharc_core.studies.task_count.measure import run_counts

        return run_counts(features, CountJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("task_count")

    def table_code(self) -> Roots:
        """Return the modules of the tables and of their sentences."""
        return "studies.task_count.table", "studies.task_count.findings", "studies.task_count.summary"

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write accuracies, bytes and seconds of every stream, and how they grow."""
        from sharc_core.studies.task_count.table import write_count_tables

        write_count_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of accuracies, bytes and seconds."""
        return [f"task_count_growth.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.task_count.figure", "studies.task_count.findings", "studies.task_count.summary"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw accuracies, bytes and seconds against the number of tasks."""
        from sharc_core.studies.task_count.figure import write_count_figure

        write_count_figure(results.rows, folder, results.config)

    def sentences(self, results: Results) -> list[str]:
        """Return what falls to chance, where SHARC's gain goes, and what grows faster than the stream."""
        from sharc_core.studies.task_count.findings import sentences

        return sentences(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return a table of results and one of growth per data set and backbone."""
        from sharc_core.studies.task_count.table import tables

        return tables(results.rows)


def _classes(grid: Grid) -> dict[str, int]:
    """Return the number of classes of every data set whose tasks differ in their classes."""
    counts = {}
    for name, dataset in grid.datasets.items():
        if dataset.labels == "joined":
            try:
                counts[name] = len(grid.source(name).class_names())
            except (UserError, OSError):  # the check of the data sets names it
                continue
    return counts


def _selection(method: str) -> str:
    """Return the paper's selection, or one that a method can be run with if it needs another."""
    if method not in METHODS.names():
        return PAPERS_SELECTION  # the check of the cells names it
    kind = METHODS.get(method)
    if kind.replays_current_task:
        return "reservoir"
    return kind.selections[0] if kind.selections else PAPERS_SELECTION


def _forgets(grid: Grid, name: str, key: str) -> bool:
    """Whether an associative memory defines what forgetting does. Raises UserError, with `key`, for none."""
    kind, _ = memory_of(grid.sharc, name, key)
    return ASSOCIATIVE_MEMORIES.get(kind).fade is not AssociativeMemory.fade
