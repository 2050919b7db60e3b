"""Settings of the study `equal_compute`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Buffer
from sharc_core.grid.study_settings import MeasuredSettings

ONE_STEP, SAMPLES, SECONDS = "one step", "equal samples", "equal seconds"
BUDGETS = (ONE_STEP, SAMPLES, SECONDS)
MOST_STEPS = 1000  # per minibatch, see grid.cell.Training
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "cell", "method", "variant"), "str"),
    "buffer": "Int64",
    **dict.fromkeys(("scenario", "compute"), "str"),
    "steps_per_batch": "float64",
    "gradient_samples": "int64",
    **dict.fromkeys(("seconds", "target", "train_flops"), "float64"),
    "seed": "int64",
    "acc": "float64",
}


class ComputeSettings(MeasuredSettings):
    """Which methods are compared at equal compute.

    methods: those with a memory plain and with SHARC; by default without MER, which equals ER under published
    settings. reference: the one of them whose plain runs the others
    are compared with. buffer: in the grid's budget. seeds: of the runs, which advance together; None for the
    grid's. repeats: how often the runs with one step and those with equal seconds are timed. The median
    counts.
    """

    methods: list[str] = Field(default=["sgd", "er", "derpp", "gem", "agem", "clser"], min_length=2)
    reference: str = "er"
    buffer: Buffer = 100
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    repeats: int = Field(default=3, ge=1, le=1000)

    @field_validator("methods", "seeds")
    @classmethod
    def _no_repeats(cls, value: list | None) -> list | None:
        return None if value is None else no_repeats(value)

    @model_validator(mode="after")
    def _reference_is_compared(self) -> "ComputeSettings":
        if self.reference not in self.methods:
            raise ValueError(f"reference {self.reference} is not in methods: add it")
        return self


class ComputeJob(Settings):
    """The cells of one data set, backbone and scenario, as Cell dumps them, and how often they are timed."""

    scenario: str
    cells: list[dict[str, Any]]
    repeats: int

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
