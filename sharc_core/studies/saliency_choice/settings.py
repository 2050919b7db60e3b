"""Settings of the study `saliency_choice`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.blocks import BudgetConfig, Mass, Theta
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Buffer
from sharc_core.grid.study_settings import MeasuredSettings
from sharc_core.provenance.lineage import FIELDS
from sharc_core.results.runs import COLUMNS as RUNS
from sharc_core.saliency import SALIENCIES
from sharc_core.studies.saliency_curves.settings import HeadKind, registered

# Columns of the rows: those of runs.csv, and the kind of head, which is no axis of a grid.
COLUMNS = {"head": "str"} | {name: kind for name, kind in RUNS.items() if name not in FIELDS}


class Limit(BudgetConfig):
    """One budget: the keys of `budget` and the buffer in its unit."""

    buffer: Buffer


class ChoiceSettings(MeasuredSettings):
    """Which saliencies are compared, for which memories, heads and budgets.

    saliencies: None for all registered ones. theta: shares of the channels dropped, or {mass: share of the
    saliency kept}, in every scenario. associative_memory: names, with the grid's settings. A perfect memory
    such as modern_hopfield returns what was dropped, so that only the number of stored samples depends on the
    saliency. budgets: to which plain replay is held as well. seeds: None for the grid's.
    """

    saliencies: list[str] | None = Field(default=None, min_length=1)
    methods: list[str] = Field(default=["er"], min_length=1)
    heads: list[HeadKind] = Field(default=["linear", "mlp"], min_length=1)
    theta: list[Theta] = Field(default=[0.5, Mass(mass=0.8)], min_length=1)
    associative_memory: list[str] = Field(default=["mean", "modern_hopfield"], min_length=1)
    budgets: list[Limit] = Field(
        default=[Limit(unit="floats", buffer=100), Limit(unit="total_bytes", buffer=500_000)], min_length=1
    )
    seeds: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)

    @field_validator("saliencies")
    @classmethod
    def _registered(cls, value: list[str] | None) -> list[str] | None:
        return registered(value)

    @field_validator("methods", "heads", "theta", "associative_memory", "budgets", "seeds")
    @classmethod
    def _no_repeats(cls, value: list | None) -> list | None:
        return None if value is None else no_repeats(value)

    @property
    def names(self) -> list[str]:
        """The saliencies to compare."""
        return SALIENCIES.names() if self.saliencies is None else self.saliencies


class ChoiceJob(Settings):
    """Cells, as Cell dumps them, of one data set, backbone and head that share a saliency or are plain."""

    cells: list[dict[str, Any]]

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
