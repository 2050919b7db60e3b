"""Settings of the study `saliency_curves`, one job of it, and the columns of its rows."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell
from sharc_core.grid.study_settings import MeasuredSettings
from sharc_core.saliency import SALIENCIES

HeadKind = Literal["linear", "mlp"]
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "head", "saliency"), "str"),
    "seed": "int64",
    **dict.fromkeys(("sweep", "order"), "str"),
    **dict.fromkeys(("share", "accuracy", "correlation", "masks_per_class", "images_per_class"), "float64"),
}


def registered(names: list[str] | None) -> list[str] | None:
    """Return names of saliencies. Raises ValueError for an unknown one and for one that is listed twice."""
    for name in names or []:
        try:
            SALIENCIES.get(name)
        except UserError as error:
            raise ValueError(str(error)) from None
    return None if names is None else no_repeats(names)


class CurveSettings(MeasuredSettings):
    """What is removed, in which shares, and for which heads.

    saliencies: None for all registered ones. heads: kinds, with `head.hidden` of the grid. shares: of the
    channels that are deleted or inserted, from 0 to 1, with 0.5. random_orders: whose accuracies are
    averaged, per seed. seeds: of the heads and the random draws; not the grid's, since more cost little.
    """

    saliencies: list[str] | None = Field(default=None, min_length=1)
    heads: list[HeadKind] = Field(default=["linear", "mlp"], min_length=1)
    shares: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], min_length=2
    )
    random_orders: int = Field(default=5, ge=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[*range(10)], min_length=1)

    @field_validator("saliencies")
    @classmethod
    def _registered(cls, value: list[str] | None) -> list[str] | None:
        return registered(value)

    @field_validator("heads", "seeds")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        return no_repeats(value)

    @field_validator("shares")
    @classmethod
    def _from_0_to_1(cls, value: list[float]) -> list[float]:
        if value[0] != 0 or value[-1] != 1 or value != sorted(set(value)):
            raise ValueError("must rise from 0 to 1, since the area between curves is taken over all shares")
        if 0.5 not in value:
            raise ValueError(
                "must contain 0.5, since the study compares half of the channels with all of them"
            )
        return value

    @property
    def names(self) -> list[str]:
        """The saliencies to examine."""
        return SALIENCIES.names() if self.saliencies is None else self.saliencies


class CurveJob(Settings):
    """The saliencies and the head of a JOINT cell, which is as Cell dumps it."""

    cell: dict[str, Any]
    saliencies: list[str]
    shares: list[float]
    random_orders: int

    @property
    def opened(self) -> Cell:
        """Return the cell."""
        return Cell.model_validate(self.cell)
