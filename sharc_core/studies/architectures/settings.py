"""Settings of the study `architectures`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Buffer

SCENARIO = "class_il"
UNIT = "floats"  # of the budget; an associative memory's state is not counted
JOINT = "joint"
VALIDATION = 0.2  # share of each class's training images that rates are chosen on
# Columns of the rows and their types in pandas; the maps' are the same in all rows of a job.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone"), "str"),
    **dict.fromkeys(("channels", "height", "width", "maps"), "int64"),
    **dict.fromkeys(("zeros", "stored_bytes", "lzma_bytes", "lzma_alone_bytes", "held_out"), "float64"),
    **dict.fromkeys(("cell", "method", "variant", "associative_memory"), "str"),
    **dict.fromkeys(("theta", "kept_mass", "lr"), "float64"),
    "buffer": "Int64",
    "seed": "int64",
    **dict.fromkeys(("samples", "acc"), "float64"),
}


Rate = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Names = Annotated[list[str], Field(min_length=2, max_length=2)]


class ArchitecturesSettings(Settings):
    """What is trained and measured on the features of every network.

    method: with a memory, plain and with SHARC. thetas: shares of the channels dropped. associative_memories:
    names, with the grid's settings. buffer: in units of full maps (floats). maps: training maps whose zeros
    are counted and which are compressed. seeds: None for the grid's. rates: learning rates, of which JOINT
    and plain replay each choose one per network and data set. rate_seeds: of the runs that choose.
    contrasts: pairs of backbones; SHARC's gain with the second is compared with that with the first.
    """

    method: str = "er"
    thetas: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default=[0.4, 0.8], min_length=1)
    associative_memories: list[str] = Field(default=["modern_hopfield", "mean"], min_length=1)
    buffer: Buffer = 100
    maps: int = Field(default=200, ge=1)
    seeds: list[Seed] | None = Field(default=None, min_length=1)
    rates: list[Rate] = Field(default=[1.0, 0.3, 0.1, 0.03, 0.01, 0.003], min_length=1)
    rate_seeds: list[Seed] = Field(default=list(range(1000, 1010)), min_length=1)
    contrasts: list[Names] = []

    @field_validator("thetas", "associative_memories", "seeds", "rates", "rate_seeds", "contrasts")
    @classmethod
    def _no_repeats(cls, value: list | None) -> list | None:
        return None if value is None else no_repeats(value)

    @field_validator("contrasts")
    @classmethod
    def _two_networks(cls, value: list[list[str]]) -> list[list[str]]:
        for first, second in value:
            no_repeats([first, second])
        return value


class ArchitecturesJob(Settings):
    """Cells, as Cell dumps them, of one data set and backbone, of which one is JOINT.

    cards: folder of the cards of networks that are pre-trained here; None for other weights. maps, rates,
    rate_seeds: see ArchitecturesSettings.
    """

    cells: list[dict[str, Any]]
    cards: str | None
    maps: int = Field(ge=1)
    rates: list[float] = Field(min_length=1)
    rate_seeds: list[int] = Field(min_length=1)

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
