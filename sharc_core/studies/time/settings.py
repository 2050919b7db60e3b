"""Settings of the study `time`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.phases import PHASES
from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell
from sharc_core.grid.study_settings import MeasuredSettings

SECONDS = {name: f"{name}_seconds" for name in PHASES}  # columns by phase, CPU seconds
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "cell", "method", "variant"), "str"),
    **dict.fromkeys(("associative_memory", "saliency"), "str"),
    "theta": "float64",
    **dict.fromkeys(("buffer", "repeat", "position", "runs", "samples_stored"), "int64"),
    **dict.fromkeys(SECONDS.values(), "float64"),
    **dict.fromkeys(("clock_seconds", "user_seconds", "system_seconds", "joules"), "float64"),
    **dict.fromkeys(("peak_memory", "memory_growth"), "float64"),
    "kept_bytes": "int64",
    "train_flops": "float64",
}


class TimeSettings(MeasuredSettings):
    """Which cells are timed, under `time`; all else is as in the grid, with the paper's protocol and budget.

    methods: with a memory. Each is run plain and with SHARC at `theta`, once per associative memory (with
    the grid's associative_settings) and saliency. buffer: in slots. seeds: of the runs, which advance
    together in one cell. repeats: how often every cell is run after a first run that is not counted.
    plain_runs: runs of each plain cell in a repeat, because all ratios of its method are to them.
    """

    methods: list[str] = Field(default=["er", "derpp"], min_length=1)
    associative_memories: list[str] = Field(default=["modern_hopfield"], min_length=1)
    saliencies: list[str] = Field(default=["gradient"], min_length=1)
    theta: float = Field(default=0.5, ge=0, lt=1)
    buffer: int = Field(default=100, ge=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    repeats: int = Field(default=5, ge=2, le=1000)
    plain_runs: int = Field(default=3, ge=1, le=100)

    @field_validator("methods", "associative_memories", "saliencies", "seeds")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        return no_repeats(value)


class TimeJob(Settings):
    """The cells of one data set and backbone, as Cell dumps them, and how often each is counted.

    repeats, plain_runs: as in TimeSettings.
    """

    cells: list[dict[str, Any]]
    repeats: int
    plain_runs: int

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
