"""Settings of the study `task_count`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell
from sharc_core.grid.study_settings import MeasuredSettings

# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone"), "str"),
    **dict.fromkeys(("tasks", "classes"), "int64"),
    **dict.fromkeys(("method", "variant", "associative_memory"), "str"),
    **dict.fromkeys(("theta", "forget_every", "buffer"), "float64"),
    "scenario": "str",
    "seed": "int64",
    **dict.fromkeys(("acc", "bwt", "chance"), "float64"),
    **dict.fromkeys(("correct", "test_images"), "int64"),
    **dict.fromkeys(("total_bytes", "peak_bytes", "samples_stored"), "int64"),
    **dict.fromkeys(("train_seconds", "test_seconds", "other_seconds", "run_seconds"), "float64"),
    **dict.fromkeys(("peak_memory", "memory_growth"), "float64"),
}
Positive = Annotated[int, Field(ge=1, le=100_000)]


class CountSettings(MeasuredSettings):
    """Which streams and cells are run, under `task_count`; all else is as in the grid.

    tasks: lengths of the streams; one of T tasks has the first T `classes_per_task` classes of the data set,
    in its class order. A data set is left out of the streams for which it has too few. methods: each is run
    plain and, if it has a memory, with SHARC at `theta`, once per associative memory and value of
    `forget_every` (None: the memory never forgets), which concerns memories that can forget.
    samples_per_class: slots of the buffer per class. most_tasks: by method or associative memory, the longest
    stream that it is run on. methods_of: by associative memory, the methods that it is run with; a memory
    that is not named is run with all. seeds: None for the grid's.
    """

    tasks: list[Annotated[int, Field(ge=2, le=100_000)]] = Field(default=[5, 10, 20, 50, 100], min_length=1)
    classes_per_task: int = Field(default=2, ge=2, le=1000)
    methods: list[str] = Field(default=["sgd", "er", "derpp", "slda"], min_length=1)
    associative_memories: list[str] = Field(default=["modern_hopfield"], min_length=1)
    forget_every: list[Positive | None] = Field(default=[None], min_length=1)
    theta: float = Field(default=0.5, ge=0, lt=1)
    samples_per_class: int = Field(default=2, ge=1, le=10_000)
    most_tasks: dict[str, Positive] = {}
    methods_of: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)

    @field_validator("tasks", "methods", "associative_memories", "forget_every", "seeds")
    @classmethod
    def _no_repeats(cls, value: list | None) -> list | None:
        return None if value is None else no_repeats(value)

    @field_validator("tasks")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        return sorted(value)


class CountJob(Settings):
    """Cells, as Cell dumps them, that run on the first `classes` classes of a data set."""

    cells: list[dict[str, Any]]
    classes: int

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
