"""Settings of the study `robustness`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.settings import no_repeats
from sharc_core.grid.cell import Training
from sharc_core.grid.study_settings import MeasuredSettings
from sharc_core.streams.settings import StreamConfig, WithStream

# Kinds of cue, by their names in column `cue`. SALIENCY is what SHARC stores and the baseline of all others.
SALIENCY = "saliency"
RANDOM = "random"
RUN = "channel_run"
BLOCK = "spatial_block"
ZEROS = "wrong_zeros"
NOISE = "wrong_noise"
NEW_IMAGE = "new_image"
NEW_CLASS = "new_class"
CUES = (SALIENCY, RANDOM, RUN, BLOCK, ZEROS, NOISE, NEW_IMAGE, NEW_CLASS)
OTHERS = CUES[1:]
MEASURES = ("relative_error", "accuracy", "nearest", "stored_class")
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "memory"), "str"),
    "seed": "int64",
    "theta": "float64",
    "cue": "str",
    **dict.fromkeys(("missing", "wrong", "patterns", "maps_read"), "float64"),
    **dict.fromkeys((*MEASURES, "true_accuracy", "true_stored_class"), "float64"),
    "reason": "str",
}


class RobustnessSettings(MeasuredSettings):
    """What is stored and read, under `robustness`.

    memories: names; None for every registered kind and those that the grid names. thetas: shares of the
    entries that are missing. wrong: share of the kept channels that hold other values, in the cues with wrong
    masks. patterns: stored maps, of half of the classes. maps: maps read per kind of cue, the first of the
    stored ones where the cue is of a stored map. slow: kinds of memory that read only `slow_maps`. seeds: of
    the head, the classes, the maps and the cues.
    """

    memories: list[str] | None = Field(default=None, min_length=1)
    thetas: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default=[0.5, 0.75], min_length=1)
    wrong: float = Field(default=0.2, gt=0, le=1)
    patterns: int = Field(default=50, ge=2)
    maps: int = Field(default=50, ge=2)
    slow: list[str] = ["pcn", "bayespcn", "bayespcn_exact"]
    slow_maps: int = Field(default=10, ge=2)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 3, 4], min_length=1)

    @field_validator("memories", "thetas", "slow", "seeds")
    @classmethod
    def _no_repeats(cls, value: list | None) -> list | None:
        return None if value is None else no_repeats(value)

    @field_validator("slow")
    @classmethod
    def _registered(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in ASSOCIATIVE_MEMORIES.names()]
        if unknown:
            valid = ", ".join(ASSOCIATIVE_MEMORIES.names())
            raise ValueError(f"{unknown[0]!r} is no kind of associative memory: choose among {valid}")
        return value


class RobustnessJob(WithStream):
    """The maps of one data set and backbone. memories: kind and settings of associative memories by name."""

    dataset: str
    backbone: str
    stream: StreamConfig
    training: Training
    memories: dict[str, dict[str, Any]]
    study: RobustnessSettings
