"""A study: a named part of a grid file that overrides axes of the grid, and what is drawn from it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import nearest

MAIN = "main"  # the grid itself, beside its studies
FIXED = {"studies", "backbone", "recall", "data_dir", "results_dir", "mirror", "device", "cells"}
Figure = Literal["learning_curves", "bytes", "associative_memory", "saliency", "theta", "protocol"]
OF_SHARC = ("associative_memory", "saliency", "theta", "protocol")  # figures that need runs of SHARC


class Study(BaseModel):
    """One entry of `studies`: any key of the grid but FIXED, `datasets` as names of the grid's.

    figure: what is drawn from the study's runs; None: they only get their table. title: stands above it.
    """

    model_config = {"extra": "allow", "frozen": True, "strict": True}

    figure: Figure | None = None
    title: str | None = Field(default=None, min_length=1)


def overridden(grid: dict[str, Any], study: Study) -> dict[str, Any]:
    """The grid's keys and values with those of a study in their place; `sharc` is merged key by key.

    Raises UserError for a key that a study cannot have and for a data set that the grid does not have.
    """
    changes = dict(study.model_extra or {})
    valid = sorted(set(grid) - FIXED)
    for key in changes:
        if key not in valid:
            known = [*Study.model_fields, *valid]
            raise UserError(
                f"unknown key {shown(key)}{nearest(key, known)}; valid: {', '.join(sorted(known))}"
            )
    if "datasets" in changes:
        names = changes["datasets"] if isinstance(changes["datasets"], list) else [changes["datasets"]]
        for dataset in names:
            if dataset not in list(grid["datasets"]):  # in a list: whatever stands there, be it a list
                raise UserError(
                    f"datasets: the grid has no data set {shown(dataset)}"
                    f"{nearest(dataset, grid['datasets'])}; it has: {', '.join(grid['datasets'])}"
                )
        changes["datasets"] = {dataset: grid["datasets"][dataset] for dataset in names}
    if "sharc" in changes:
        if not isinstance(changes["sharc"], dict):
            raise UserError(f"sharc: must hold keys and values (got {shown(changes['sharc'])})")
        changes["sharc"] = grid["sharc"] | changes["sharc"]
    return grid | changes | {"studies": {}}
