"""Settings of the study `capacity`, one job of it, and the columns of its rows."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.study_settings import MeasuredSettings

Part = Literal["hopfield", "modern_hopfield", "predictive"]  # values of column `part`
CLASSICAL: Final = "hopfield"
MODERN: Final = "modern_hopfield"
PREDICTIVE: Final = "predictive"
HEBBIAN, PROJECTION = "hebbian", "pseudo_inverse"  # rules of the classical network
PATTERN, HALF = "pattern", "half"  # kinds of cue: all units at the stored pattern but free, half of it known
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "part", "memory", "rule", "cue"), "str"),
    **dict.fromkeys(("seed", "size", "patterns", "maps_read"), "int64"),
    "hidden": "Int64",
    "error": "float64",
    "reason": "str",
}


class CapacitySettings(MeasuredSettings):
    """Random patterns that are stored and recalled, under `capacity`.

    units: N of the classical network. loads: P / N of the Hebbian rule, projection_loads: of the projection
    rule, for the smallest N. updates: the most sweeps over all units. known: entries of a cue of the modern
    network, noise: on them, in standard deviations of an entry. most_patterns: largest P there. memories:
    names of associative memories with hidden units, entries: of their patterns, hidden: numbers of units,
    counts: P. maps: patterns that Hopfield networks read, at most, hidden_maps: that the others read. seeds:
    of patterns, weights and noise.
    """

    units: list[Annotated[int, Field(ge=10, le=4000)]] = Field(default=[250, 500, 1000], min_length=1)
    loads: list[Annotated[float, Field(gt=0, le=2)]] = Field(
        default=[0.05, 0.1, 0.12, 0.13, 0.14, 0.15, 0.16, 0.18, 0.2, 0.25, 0.3],
        min_length=2,
        validate_default=True,  # against `units`
    )
    projection_loads: list[Annotated[float, Field(gt=0, le=2)]] = Field(
        default=[0.1, 0.2, 0.3, 0.4, 0.5, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.57, 0.6, 0.8, 1.0],
        min_length=2,
        validate_default=True,
    )
    updates: int = Field(default=50, ge=1)
    known: list[Annotated[int, Field(ge=2, le=200)]] = Field(default=[4, 8, 12, 16, 20], min_length=2)
    noise: float = Field(default=1.0, ge=0.1, le=10)
    most_patterns: int = Field(default=2**14, ge=4, le=2**20)
    memories: list[str] = Field(default=["pcn", "bayespcn", "autoencoder"], min_length=1)
    entries: int = Field(default=128, ge=4)
    hidden: list[Annotated[int, Field(ge=2, le=8192)]] = Field(default=[8, 16, 32], min_length=2)
    counts: list[Annotated[int, Field(ge=2)]] = Field(default=[4, 8, 12, 16, 24, 32, 64, 96], min_length=2)
    maps: int = Field(default=200, ge=2)
    hidden_maps: int = Field(default=10, ge=2)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2, 3, 4], min_length=1)

    @field_validator("memories", "seeds")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        return no_repeats(value)

    @field_validator("units", "loads", "projection_loads", "known", "hidden", "counts")
    @classmethod
    def _rising(cls, value: list) -> list:
        if value != sorted(set(value)):
            raise ValueError("must rise: a capacity is where the error crosses a level")
        return value

    @field_validator("loads", "projection_loads")
    @classmethod
    def _patterns(cls, value: list[float], info: ValidationInfo) -> list[float]:
        units = info.data.get("units")  # rises; absent if it is wrong itself
        if units and round(value[0] * units[0]) < 1:
            raise ValueError(f"a load of {value[0]:g} on {units[0]} units is no pattern: raise it or units")
        return value


class CapacityJob(Settings):
    """One associative memory on random patterns.

    dataset, backbone: where the rows lie; the patterns do not depend on them. kind, settings: of the memory.
    """

    dataset: str
    backbone: str
    part: Part
    memory: str
    kind: str
    settings: dict[str, Any]
    study: CapacitySettings
