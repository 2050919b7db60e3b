"""Sub-grids: the entries of `studies` in a grid file. Each overrides axes of the grid."""

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import nearest

MAIN = "main"  # the grid itself, next to its sub-grids
MAIN_FIGURES = ("learning_curves", "bytes")  # figures of the grid itself
FURTHER_FIGURES = ("sharc_gain", "compute", "ranks")  # of grids for which results/main_figures.py says so
DRAWN = ("svg", "png", "pdf")  # kinds of files of every figure
FIXED = {"studies", "backbone", "data_dir", "results_dir", "mirror", "device", "cells"}
Figure = Literal["learning_curves", "bytes", "associative_memory", "saliency", "theta", "protocol"]
OF_SHARC = ("associative_memory", "saliency", "theta", "protocol")  # figures that need runs of SHARC


class SubGrid(BaseModel):
    """One sub-grid: any key of the grid except FIXED; `datasets` lists names of the grid's data sets.

    figure: the kind of figure drawn from its runs; with None its runs only get a table. title: the figure's.
    main: its runs are the grid's own as well, so they are in its tables, its figures and its verdict.
    """

    model_config = {"extra": "allow", "frozen": True, "strict": True}

    figure: Figure | None = None
    title: str | None = Field(default=None, min_length=1)
    main: bool = False

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the newest key out where it has its default, so that hashes of older grids still match."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if key != "main" or value}


def overridden(grid: dict[str, Any], sub_grid: SubGrid, keys: Collection[str]) -> dict[str, Any]:
    """Return the grid's keys and values with those of a sub-grid in their place.

    `sharc` is merged key by key. keys: all that a grid can have; others, such as settings of registered
    studies, are left out. Raises UserError for a key that a sub-grid cannot have and for an unknown data set.
    """
    changes = dict(sub_grid.model_extra or {})
    valid = sorted(set(keys) - FIXED)
    for key in changes:
        if key not in valid:
            known = [*SubGrid.model_fields, *valid]
            raise UserError(
                f"unknown key {shown(key)}{nearest(key, known)}; valid: {', '.join(sorted(known))}"
            )
    if "datasets" in changes:
        names = changes["datasets"] if isinstance(changes["datasets"], list) else [changes["datasets"]]
        for dataset in names:
            if dataset not in list(grid["datasets"]):  # a list, as any value may stand here, even a list
                raise UserError(
                    f"datasets: the grid has no data set {shown(dataset)}"
                    f"{nearest(dataset, grid['datasets'])}; it has: {', '.join(grid['datasets'])}"
                )
        changes["datasets"] = {dataset: grid["datasets"][dataset] for dataset in names}
    if "sharc" in changes:
        if not isinstance(changes["sharc"], dict):
            raise UserError(f"sharc: must hold keys and values (got {shown(changes['sharc'])})")
        changes["sharc"] = grid["sharc"] | changes["sharc"]
    return {key: grid[key] for key in keys} | changes | {"studies": {}}
