"""Settings of the study `orders`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell, Variant
from sharc_core.grid.study_settings import MeasuredSettings

# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "stream"), "str"),
    "class_order": "int64",
    **dict.fromkeys(("method", "variant", "scenario"), "str"),
    "seed": "int64",
    **dict.fromkeys(("acc", "bwt"), "float64"),
}
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]


class OrderSettings(MeasuredSettings):
    """Which streams and cells are run, under `orders`; all else is as in the grid.

    class_orders: seeds of the shuffles of the classes, at least two. seeds: of the runs on each order; None
    for the grid's. blurry: shares of a task's training samples that come from other tasks, each a stream
    beside the one with tasks of their own classes. iid: whether samples are also shuffled over all tasks.
    methods: each is run in every variant that it has, SHARC at `theta` with `associative_memory`. buffer: in
    slots, under the budget `floats`.
    """

    class_orders: list[Seed] = Field(default=[0, 1, 2, 3, 4], min_length=2)
    seeds: list[Seed] | None = Field(default=None, min_length=2)
    blurry: list[Annotated[float, Field(gt=0, lt=1)]] = [0.1, 0.3]
    iid: bool = True
    methods: list[str] = Field(default=["sgd", "er", "derpp", "slda"], min_length=1)
    variants: list[Variant] = Field(default=["plain", "sharc"], min_length=1)
    theta: float = Field(default=0.5, ge=0, lt=1)
    associative_memory: str = "modern_hopfield"
    buffer: int = Field(default=100, ge=1)

    @field_validator("class_orders", "seeds", "blurry", "methods", "variants")
    @classmethod
    def _no_repeats(cls, value: list | None) -> list | None:
        return None if value is None else no_repeats(value)


class OrderJob(Settings):
    """Cells of one data set, backbone and kind of stream, as Cell dumps them."""

    cells: list[dict[str, Any]]

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
