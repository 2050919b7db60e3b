"""Settings of registered studies in a grid file: each block stands under its study's name.

The registry of studies lies here and not in sharc_core/studies, which builds on the grid.
"""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import Field, ValidationError

from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import Registry, nearest
from sharc_core.common.settings import Settings
from sharc_core.common.validation_messages import explain
from sharc_core.grid.sub_grid import SubGrid

STUDIES = Registry("study", "sharc_core.studies")


class MeasuredSettings(Settings):
    """Base of the settings of studies with jobs that measure features.

    datasets: names of the data sets to measure; None for all of the grid.
    """

    datasets: list[str] | None = Field(default=None, min_length=1)


def with_study_settings(values: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Return a grid file's values with the blocks of registered studies validated. keys: the grid's own.

    Raises UserError for a key that neither the grid nor a study has, and for a block that is not valid.
    """
    validated = dict(values)
    for name in [name for name in values if name not in keys]:
        if not isinstance(name, str) or name not in STUDIES.names():
            known = [*keys, *STUDIES.names()]
            raise UserError(
                f"config: unknown key {shown(name)}{nearest(name, known)}; valid: {', '.join(sorted(known))}"
            )
        model = STUDIES.get(name).Settings
        try:
            validated[name] = model.model_validate(values[name])
        except ValidationError as error:
            raise UserError(f"config: {explain(error, model, name)}") from None
    return validated


def added_sub_grids(settings: Mapping[str, Settings]) -> dict[str, SubGrid]:
    """Return the sub-grids that studies add to a grid. settings: of the studies in the grid file, by name."""
    sub_grids = {}
    for name, values in settings.items():
        for key, changes in STUDIES.get(name)(values).sub_grids().items():
            sub_grids[key] = SubGrid.model_validate(changes)
    return sub_grids


def is_taken(name: str, settings: Mapping[str, Settings]) -> bool:
    """Whether a sub-grid of a grid file must not have this name, because a study's files may have it."""
    names = [study for study in STUDIES.names() if STUDIES.get(study).has_jobs()]
    return name in added_sub_grids(settings) or any(
        name == study or name.startswith(f"{study}_") for study in names
    )
