"""Settings of the study `fair_tuning`, one job of it, and the columns of its rows."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from sharc_core.common.settings import Settings, no_repeats
from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Buffer
from sharc_core.grid.study_settings import MeasuredSettings
from sharc_core.studies.tune.settings import Range, Search, Space, TuneSettings

PUBLISHED, TUNED = "published", "tuned"
# Columns of the rows and their types in pandas.
COLUMNS = {
    **dict.fromkeys(("dataset", "backbone", "cell", "method", "variant"), "str"),
    "buffer": "Int64",
    **dict.fromkeys(("scenario", "source", "settings"), "str"),
    "validation_acc": "float64",
    **dict.fromkeys(("trials", "failed", "seed"), "int64"),
    "acc": "float64",
}
SPACE: Space = {
    "training.lr": Range(low=0.01, high=1.0, log=True),
    "method_settings.derpp.alpha": Range(low=0.03, high=1.0, log=True),
    "method_settings.derpp.beta": Range(low=0.1, high=1.0),
    "method_settings.gem.margin": Range(low=0.0, high=1.0),
    "method_settings.mer.beta": Range(low=0.1, high=1.0),
    "method_settings.mer.gamma": Range(low=0.1, high=1.0),
    "method_settings.clser.reg": Range(low=0.03, high=1.0, log=True),
    "method_settings.clser.stable_rate": Range(low=0.1, high=1.0),
    "method_settings.clser.stable_decay": [0.9, 0.95, 0.99, 0.999],
    "sharc.theta": Range(low=0.2, high=0.9),
}


class FairSettings(Search, MeasuredSettings):
    """Which methods are ranked, and how they are tuned.

    methods: each plain and with SHARC; by default without MER, which equals ER under published settings.
    buffer: in the grid's budget. The other keys are those of `tune`. The trials of a cell serve both
    scenarios: each takes the settings with its own highest validation ACC.
    """

    methods: list[str] = Field(default=["er", "derpp", "gem", "agem", "clser"], min_length=2)
    buffer: Buffer = 100
    settings: Annotated[Space, Field(min_length=1)] = SPACE
    trials: int = Field(default=20, ge=2)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[1000, 1001, 1002], min_length=1)

    @field_validator("methods")
    @classmethod
    def _every_method_once(cls, value: list[str]) -> list[str]:
        return no_repeats(value)

    @property
    def search(self) -> TuneSettings:
        """The same search as settings of `tune`, which runs the trials."""
        values = self.model_dump(include=set(Search.model_fields))
        return TuneSettings.model_validate(values)


class FairJob(Settings):
    """The cells of one method, as Cell dumps them with the grid's seeds, and their search."""

    cells: list[dict[str, Any]]
    tune: TuneSettings

    @property
    def opened(self) -> list[Cell]:
        """Return the cells."""
        return [Cell.model_validate(cell) for cell in self.cells]
