"""Settings of the recall study: the points that it measures, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Training
from sharc_core.streams.settings import StreamConfig, WithStream

# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "memory"), "str"),
    "seed": "int64",
    **dict.fromkeys(("sweep", "mask"), "str"),
    **dict.fromkeys(("masked", "noise", "patterns", "later_tasks"), "float64"),
    "forgetting": "boolean",
    "maps_read": "float64",
    **dict.fromkeys(("relative_error", "cosine", "nearest", "exact", "agreement"), "float64"),
    **dict.fromkeys(("state_bytes", "write_seconds", "read_seconds"), "float64"),
    "reason": "str",
}


class RecallSettings(Settings):
    """Points at which associative memories are measured; `theta` applies where the mask is not swept.

    masked: shares of the channels dropped. noise: standard deviations of the noise on the cue, in units of
    the standard deviation of the map entries. counts: stored maps. later_tasks: tasks written after the
    first one, with task_patterns maps each. side, pictures: pixels per side and number of the digits drawn.
    """

    patterns: int = Field(default=100, ge=2)
    theta: float = Field(default=0.5, ge=0, lt=1)
    masked: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95], min_length=1
    )
    noise: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default=[0.0, 0.1, 0.2, 0.5, 1.0], min_length=1
    )
    counts: list[Annotated[int, Field(ge=1)]] = Field(default=[10, 30, 100, 300, 1000], min_length=1)
    later_tasks: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 4, 8], min_length=1)
    task_patterns: int = Field(default=20, ge=2)
    forget_beta: float = Field(default=0.1, ge=0, le=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    side: int = Field(default=16, ge=4, le=64)
    pictures: int = Field(default=30, ge=2, le=1000)

    @field_validator("masked", "noise", "counts", "later_tasks", "seeds")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        return no_repeats(value)


class RecallJob(WithStream):
    """One associative memory on the features of one data set, with all seeds."""

    dataset: str
    stream: StreamConfig
    backbone: str
    associative_memory: str
    associative_kind: str | None = None
    associative_settings: dict[str, Any]
    training: Training
    study: RecallSettings

    @property
    def memory_kind(self) -> str:
        """The registered kind of the associative memory; its name in the grid may be the user's own."""
        return self.associative_kind or self.associative_memory
