"""What a cell may keep: its budget, checked against the size of its maps."""

from dataclasses import replace
from functools import partial

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.grid.cell import Cell
from sharc_core.memory.budget import Budget
from sharc_core.methods import METHODS
from sharc_core.representations.encoding import fewest_channels, kept_channels


def budget_of(cell: Cell, shape: tuple[int, int, int], classes: int) -> Budget | None:
    """A cell's budget for maps of shape (K, h, w); None when it has no memory.

    Raises UserError when a task's share holds no sample, or when the cell's associative memory cannot hold
    maps of that size: known before anything is computed.
    """
    if cell.buffer is None:
        return None
    budget = Budget(
        cell.budget_unit,
        cell.buffer,
        cell.stream.tasks,
        shape,
        logits=classes if METHODS.get(cell.method).needs_logits else 0,
        storage=cell.storage,
        counted=cell.has_ragged_channels,
        dense=cell.read not in (None, "per_task"),
        split=tuple(cell.budget_split) if isinstance(cell.budget_split, list) else None,
        carry=cell.budget_split == "carry",
    )
    keep = shape[0]
    if cell.variant == "sharc":
        kind = ASSOCIATIVE_MEMORIES.get(cell.memory_kind)
        settings = kind.Settings.model_validate(cell.associative_settings)
        planned = partial(kind.planned_bytes, settings, shape, classes)
        planned(0)  # raises for maps that such a memory cannot hold
        if cell.count_associative_memory:
            budget = replace(budget, am_bytes=planned)
        keep_by = fewest_channels if cell.importance == "positive" else kept_channels
        keep = 1 if cell.theta is None else keep_by(shape[0], cell.theta)
    budget.check(keep)
    return budget
