"""Which figures a grid has besides those of MAIN_FIGURES; the plan and the drawing code share this choice."""

from collections.abc import Iterable
from typing import Protocol

from sharc_core.grid.sub_grid import FURTHER_FIGURES
from sharc_core.methods import traits

GAIN, COMPUTE, RANKS = FURTHER_FIGURES
FEWEST = 3  # data sets and methods of a ranking


class Row(Protocol):
    """What a cell and an Entry have in common."""

    @property
    def dataset(self) -> str: ...  # noqa: D102
    @property
    def backbone(self) -> str: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def variant(self) -> str: ...  # noqa: D102
    @property
    def buffer(self) -> int | None: ...  # noqa: D102


def further_figures(rows: Iterable[Row]) -> list[str]:
    """Return the further figures of a scenario from its cells or entries: gain, compute and ranks.

    GAIN needs a method with both variants, COMPUTE any method but JOINT, RANKS a backbone with at
    least FEWEST data sets and FEWEST models that run on all of them.
    """
    rows = [row for row in rows if not traits(row.method).joint]
    models: dict[str, dict[str, set[tuple[str, str]]]] = {}
    for row in rows:
        models.setdefault(row.backbone, {}).setdefault(row.dataset, set()).add((row.method, row.variant))
    sharc = {_pair(row) for row in rows if row.variant == "sharc"}
    names = [GAIN] if sharc & {_pair(row) for row in rows if row.variant == "plain"} else []
    names += [COMPUTE] if rows else []
    is_ranked = any(
        len(of) >= FEWEST and len(set.intersection(*of.values())) >= FEWEST for of in models.values()
    )
    return [*names, RANKS] if is_ranked else names


def _pair(row: Row) -> tuple:
    return row.dataset, row.backbone, row.method, row.buffer
