"""The study `orders`: how much ACC depends on the order of the classes, and on sharp ends of tasks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.streams.settings import StreamConfig
from sharc_core.studies.base import STUDIES, Backbones, Job, Results, Roots, Study
from sharc_core.studies.measured_tables import table_files
from sharc_core.studies.orders.settings import COLUMNS, OrderJob, OrderSettings
from sharc_core.studies.parts import code_of_cells, single_cells_of

if TYPE_CHECKING:
    import pandas as pd

    from sharc_core.features.cache import Features
    from sharc_core.results.table_formats import Table


@STUDIES.register("orders")
class Orders(Study):
    """The same cells on several class orders, with sharp, blurry and no boundaries between tasks.

    Blurry streams are as in Bang et al. 2021 ("Rainbow Memory", arXiv 2103.17230), with 10 and 30 % by
    default: that share of each task's samples comes from the classes of the other tasks. On blurry and
    i.i.d. streams the seed of a class order also draws which samples a task gets.
    """

    title = "Class orders and blurry tasks"
    explanation = (
        "<p>Every cell is run on several class orders with several seeds each. Variance components of "
        "ACC: over orders, over seeds, and the rest, which is their interaction and belongs to neither.</p>"
    )
    columns = COLUMNS
    no_jobs = (
        "no stream to run: the study needs a data set of two or more tasks with classes of their own, a "
        "backbone with batch_norm frozen and cells that fit the grid; a block `orders` shows why they do not"
    )

    class Settings(OrderSettings):
        """Which streams and cells are run, under `orders`."""

    def jobs(self, grid: Grid) -> list[Job]:
        """Return one job per data set, backbone and kind of stream.

        Raises UserError if the grid file has a block `orders` whose cells do not fit the grid.
        """
        chosen = {
            name: dataset.model_copy(
                update={"class_order_seed": None, "class_order": None, "order": "tasks", "blurry": None}
            )
            for name, dataset in grid.datasets.items()
            if dataset.labels == "joined" and dataset.stream.count > 1
        }
        if not chosen or not self._has_seeds(grid):
            return []
        groups: dict[tuple[str, str], list[Cell]] = {}
        made = single_cells_of(grid.model_copy(update={"datasets": chosen}), self.name, self._changes(grid))
        for cell in made:
            if cell.batch_norm == "frozen":
                groups.setdefault((cell.dataset, cell.backbone), []).append(cell)
        return [
            Job(
                *place,
                name,
                OrderJob(cells=[cell.model_dump(mode="json") for cell in streamed]).model_dump(mode="json"),
                code_of_cells("studies.orders.measure", streamed),
            )
            for place, cells in groups.items()
            for name, streamed in self._streams(cells)
        ]

    def _has_seeds(self, grid: Grid) -> bool:
        """Whether there are two seeds to compare. Raises UserError if a study in the grid file has fewer."""
        if self.settings.seeds is None and len(grid.seeds) < 2:
            if self.name in grid.study_blocks:
                raise UserError(f"config: {self.name}.seeds: the grid has one: give two or more seeds")
            return False
        return True

    def _changes(self, grid: Grid) -> dict[str, Any]:
        """Return what turns a grid into the study's cells."""
        settings = self.settings
        return {
            "methods": settings.methods,
            "variants": settings.variants,
            "seeds": grid.seeds if settings.seeds is None else settings.seeds,
            "buffers": [settings.buffer],
            "protocol": ["paper"],
            "budget": {},
            "memory": {},
            "storage": "float16",
            "sharc": {"theta": settings.theta, "associative_memory": settings.associative_memory},
            "tuned": None,
        }

    def _streams(self, cells: list[Cell]) -> Iterator[tuple[str, list[Cell]]]:
        """Yield the name of each kind of stream and the cells on it, on every class order."""
        kinds: dict[str, dict[str, Any]] = {"tasks": {}}
        kinds |= {f"blurry-{share:g}": {"order": "blurry", "blurry": share} for share in self.settings.blurry}
        kinds |= {"iid": {"order": "iid"}} if self.settings.iid else {}
        for name, changes in kinds.items():
            yield (
                name,
                [
                    cell.model_copy(update={"stream": _ordered(cell.stream, seed, changes), "device": "cpu"})
                    for seed in self.settings.class_orders
                    for cell in cells
                ],
            )

    @staticmethod
    def run(job: Job, features: "Features", progress: Callable[[str], None]) -> "pd.DataFrame":
        """Run the cells of one kind of stream."""
        from sharc_core.studies.orders.measure import run_orders

        return run_orders(features, OrderJob.model_validate(dict(job.settings)), progress)

    def table_names(self) -> list[str]:
        """Return one table in three formats."""
        return table_files("orders")

    def table_code(self) -> Roots:
        """Return the modules of the tables."""
        return "studies.orders.table", "studies.orders.components"

    def write_tables(self, results: Results, folder: Path) -> None:
        """Write means and variance components."""
        from sharc_core.studies.orders.table import write_order_tables

        write_order_tables(results.rows, folder, results.config)

    def figure_names(self, backbones: Backbones) -> list[str]:
        """Return one figure of ACC and of its deviations."""
        return [f"orders_variance.{kind}" for kind in (*DRAWN, "json")]

    def figure_code(self) -> Roots:
        """Return the modules of the figure and of what it shows."""
        return "studies.orders.figure", "studies.orders.table"

    def write_figures(self, results: Results, folder: Path) -> None:
        """Draw ACC of every order, and the deviations of order, seed and residual."""
        from sharc_core.studies.orders.figure import write_order_figure

        write_order_figure(results.rows, folder, results.config)

    def sentences(self, results: Results) -> list[str]:
        """Return whether orders or seeds vary ACC more, and what blurry streams change."""
        from sharc_core.studies.orders.table import sentences

        return sentences(results.rows)

    def report_tables(self, results: Results) -> list["Table"]:
        """Return a table per data set, backbone and scenario."""
        from sharc_core.studies.orders.table import tables

        return tables(results.rows)


def _ordered(stream: StreamConfig, seed: int, changes: dict[str, Any]) -> StreamConfig:
    """Return a stream with a shuffled class order. Listed classes become sizes of tasks."""
    tasks = stream.tasks if stream.listed_classes is None else list(stream.sizes)
    return StreamConfig.model_validate({"tasks": tasks, "class_order_seed": seed} | changes)
