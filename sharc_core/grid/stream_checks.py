"""Checks of a grid's streams: tasks that a source brings along, and what a stream cannot be combined with."""

from typing import Any

from sharc_core.common.errors import UserError, shown
from sharc_core.datasets.parts import OfParts
from sharc_core.grid.models import DatasetConfig, Grid


def with_tasks(grid: Grid) -> Grid:
    """Return the grid with the tasks of sources that have their own filled in, where the file gives none.

    Raises UserError where neither has any.
    """
    if all(dataset.tasks is not None for dataset in grid.datasets.values()):
        return grid
    values = grid.model_dump()
    for name, dataset in grid.datasets.items():
        if dataset.tasks is None:
            values["datasets"][name]["tasks"] = _own_tasks(grid, name, dataset)
    return Grid.model_validate(values)


def _own_tasks(grid: Grid, name: str, dataset: DatasetConfig) -> Any:
    source = grid.source(name)
    if not isinstance(source, OfParts):
        raise UserError(f"config: datasets.{name}.tasks is missing")
    if dataset.labels == "same":
        return len(source.parts)
    try:
        return [len(part.class_names()) for part in source.parts]
    except UserError as error:
        raise UserError(f"config: datasets.{name}: {error}") from None
    except OSError as error:
        problem = f"{shown(error.filename)}: {(error.strerror or '').lower()}"
        raise UserError(f"config: datasets.{name}: {problem}") from None


def check_streams(grid: Grid) -> None:
    """Refuse scenarios and batch norms that the streams of a grid cannot have. Raises UserError."""
    for name, dataset in grid.datasets.items():
        is_domain = dataset.labels == "same"
        if is_domain and not isinstance(grid.source(name), OfParts):
            raise UserError(
                f"config: datasets.{name}.labels: same needs several parts: use source sequence, or remove it"
            )
        wrong = [scenario for scenario in grid.scenarios if (scenario == "domain_il") != is_domain]
        if wrong:
            reason = "same, so that every task has all classes: its only scenario is domain_il"
            if not is_domain:
                reason = (
                    "joined, so that tasks differ in their classes: use task_il and class_il, or labels same"
                )
            raise UserError(
                f"config: scenarios: {wrong[0]} does not fit data set {name}, whose labels are {reason}"
            )
        special = {
            "class_order_seed per_run": dataset.is_per_run,
            f"order {dataset.order}": dataset.order != "tasks",
            "labels same": is_domain,
        }
        for key, is_given in special.items():
            norms = [one.batch_norm for other, one in grid.all_pairs if other == name] if is_given else []
            moving = [norm for norm in norms if norm != "frozen"]
            if moving:
                raise UserError(
                    f"config: datasets.{name}: {key} cannot be combined with batch_norm {moving[0]}, whose "
                    "features depend on the order of the tasks: use batch_norm frozen"
                )
