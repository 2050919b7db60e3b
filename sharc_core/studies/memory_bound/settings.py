"""Settings of the study `memory_bound`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.errors import UserError
from sharc_core.common.settings import no_repeats
from sharc_core.grid.cell import Training
from sharc_core.grid.study_settings import MeasuredSettings
from sharc_core.representations import REPRESENTATIONS
from sharc_core.representations.sparse_maps import SparseMapRepresentation
from sharc_core.streams.settings import StreamConfig, WithStream

MAPS, MEMORY = "maps", "memory"  # values of column `kind`
COMPRESSORS = ("zlib", "lzma", "zstd")
COMPRESSED = [f"{name}_bytes" for name in COMPRESSORS]  # all maps in one stream
ALONE = [f"{name}_alone_bytes" for name in COMPRESSORS]  # every map in a stream of its own
# Columns of the rows and their types in pandas. Bytes are means per map.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "kind", "storage"), "str"),
    "theta": "float64",
    **dict.fromkeys(("channels", "height", "width", "keep", "maps"), "int64"),
    **dict.fromkeys(("stored_bytes", "any_bytes", "zeros_bytes", "entropy_bytes"), "float64"),
    **dict.fromkeys(("zeros", "value_entropy", *COMPRESSED, *ALONE), "float64"),
    "memory": "str",
    **dict.fromkeys(("saved_bytes", "state_bytes", "state_bytes_per_map"), "float64"),
    "break_even": "Int64",
    "reason": "str",
}


class MemoryBoundSettings(MeasuredSettings):
    """What is measured, under `memory_bound`.

    thetas: shares of the channels dropped, by saliency. storages: representations of maps, the first of which
    the figure shows and the associative memories have to pay for. maps: training maps that are stored and
    compressed. seed: of the head that gives the saliency, and of the choice of maps.
    """

    thetas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], min_length=1
    )
    storages: list[str] = Field(default=["float16", "int8"], min_length=1)
    maps: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0)

    @field_validator("thetas", "storages")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        return no_repeats(value)

    @field_validator("storages")
    @classmethod
    def _of_sparse_maps(cls, value: list[str]) -> list[str]:
        for name in value:
            try:
                kind = REPRESENTATIONS.get(name)
            except UserError as error:
                raise ValueError(str(error)) from None
            if not issubclass(kind, SparseMapRepresentation):
                valid = [
                    other
                    for other in REPRESENTATIONS.names()
                    if issubclass(REPRESENTATIONS.get(other), SparseMapRepresentation)
                    and REPRESENTATIONS.get(other).in_grids
                ]
                raise ValueError(
                    f"{name} does not store the channels of maps one by one: choose among {', '.join(valid)}"
                )
        return value


class MemoryBoundJob(WithStream):
    """The maps of one data set and backbone. memories: kind and settings of associative memories by name."""

    dataset: str
    backbone: str
    stream: StreamConfig
    training: Training
    memories: dict[str, dict[str, Any]]
    study: MemoryBoundSettings
