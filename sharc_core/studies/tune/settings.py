"""Settings of the study `tune`, one job of it, and the columns of its rows."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell, Scenario
from sharc_core.grid.tuned import Value, check_name, concerns

SAME = "domain_il"  # every task has all classes, so this is the accuracy in both scenarios
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "cell", "method", "variant"), "str"),
    "buffer": "Int64",
    "cell_digest": "str",
    "trial": "int64",
    "own": "bool",
    "settings": "str",
    "seed": "int64",
    **dict.fromkeys(("class_il", "task_il"), "float64"),
    "criterion": "str",
    "chosen": "bool",
    "reason": "str",
}


class Range(Settings):
    """Numbers from low to high. log: drawn uniformly in the logarithm. Integers if both ends are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low must be below high (got {self.low:g} and {self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"a range with log: true must be above 0 (got low {self.low:g})")
        return self

    @property
    def is_integer(self) -> bool:
        """Return whether the range holds integers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def _kind(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


Listed = Annotated[list[Value], Field(min_length=1)]
Options = Annotated[Annotated[Listed, Tag("list")] | Annotated[Range, Tag("range")], Discriminator(_kind)]
Space = dict[str, Options]


class Search(Settings):
    """Which settings are tried, in how many trials, and on which data.

    settings: by name, a list of values or a range. trials: the most that a cell gets, the same for all; the
    first has the grid's own settings. sampler: `grid` tries all combinations, which must fit `trials`;
    `random` draws them (all, where they fit); `tpe` is Optuna's tree-structured Parzen estimator. validation:
    share of each class's training images that is held out and never trained on. seeds: of the trials, which
    should not be the grid's. seed: of the split and of the sampler.
    """

    settings: Annotated[Space, Field(min_length=1)] = {"training.lr": [0.003, 0.01, 0.03, 0.1, 0.3]}
    trials: int = Field(default=10, ge=2)
    sampler: Literal["grid", "random", "tpe"] = "random"
    validation: float = Field(default=0.1, gt=0, le=0.5)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[1000], min_length=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("settings")
    @classmethod
    def _known(cls, value: Space) -> Space:
        for name, options in value.items():
            try:
                check_name(name)
            except UserError as error:
                raise ValueError(str(error)) from None
            if isinstance(options, list):
                no_repeats(options)
        return value

    @field_validator("seeds")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        return no_repeats(value)

    def space(self, cell: Cell) -> Space:
        """Return the settings that concern a cell."""
        return {name: options for name, options in self.settings.items() if concerns(cell, name)}

    def combinations(self, space: Space) -> int | None:
        """Return the number of combinations of values, None if a range makes them countless."""
        lists = [options for options in space.values() if isinstance(options, list)]
        return math.prod(map(len, lists)) if len(lists) == len(space) else None


class TuneSettings(Search):
    """What is tuned and how.

    select_by: scenario whose final ACC decides; a cell that is reported in the other scenario only is chosen
    by that one.
    """

    select_by: Scenario = "class_il"


class TuneJob(Settings):
    """One cell with all its trials. cell: as Cell dumps it, with the seeds of the trials."""

    cell: dict[str, Any]
    tune: TuneSettings

    @property
    def opened(self) -> Cell:
        """Return the cell."""
        return Cell.model_validate(self.cell)


def column_of(criterion: str) -> str:
    """Return the column with the accuracy in a scenario. In Domain-IL both columns have it."""
    return "class_il" if criterion == SAME else criterion
