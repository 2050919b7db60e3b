"""Settings of the study `heads`, one job of it, and the columns of its rows."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import SCALE, Cell
from sharc_core.grid.models import Buffer
from sharc_core.grid.study_settings import MeasuredSettings

Kind = Literal["linear", "mlp", "cosine"]
Correction = Literal["none", "weight_alignment", "unclipped_alignment"]
NONE = "none"
SCENARIO = "class_il"  # corrections scale the logits of all classes of a task alike
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "cell", "method", "variant"), "str"),
    "buffer": "Int64",
    **dict.fromkeys(("head", "correction"), "str"),
    "scale": "float64",  # 0 for a head without one
    "seed": "int64",
    **dict.fromkeys(("acc", "recency"), "float64"),
}


class HeadsSettings(MeasuredSettings):
    """Which heads are compared, and for which methods.

    methods: with a memory, plain and with SHARC. corrections: values of `head.bias_correction`; a cosine head
    is run with `none` alone. scales: of a cosine head before training. buffer: in the grid's budget. seeds:
    None for the grid's.
    """

    methods: list[str] = Field(default=["er", "derpp"], min_length=1)
    heads: list[Kind] = Field(default=["linear", "mlp", "cosine"], min_length=1)
    corrections: list[Correction] = Field(
        default=["none", "weight_alignment", "unclipped_alignment"], min_length=1
    )
    scales: list[Annotated[float, Field(gt=0, le=1000)]] = Field(default=[SCALE, 2 * SCALE], min_length=1)
    buffer: Buffer = 100
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)

    @field_validator("methods", "heads", "corrections", "scales", "seeds")
    @classmethod
    def _no_repeats(cls, value: list | None) -> list | None:
        return None if value is None else no_repeats(value)

    @field_validator("corrections")
    @classmethod
    def _has_none(cls, value: list[str]) -> list[str]:
        if NONE not in value:
            raise ValueError(f"corrections are compared with {NONE}: add it")
        return value


class HeadsJob(Settings):
    """Cells of one head, as Cell dumps them."""

    cells: list[dict[str, Any]]

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
