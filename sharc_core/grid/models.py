"""The grid file as typed models: keys, types, defaults and ranges.

Reading a file: sharc_core.grid.loading. Checks of several keys together: sharc_core.grid.checks. The cells of
a grid: sharc_core.grid.unroll.
"""

from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.own_features import OWN_FEATURES, OwnFeatures
from sharc_core.common.device import checked_name
from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, short_sha256
from sharc_core.common.settings import Name, Settings, WorkflowPath, no_repeats
from sharc_core.datasets import SOURCES, Source
from sharc_core.datasets.feature_source import has_features
from sharc_core.grid.blocks import BudgetConfig, MemoryConfig, Sharc
from sharc_core.grid.cell import OPTIONAL, Device, HeadConfig, Scenario, Training, Variant
from sharc_core.grid.expansion import without_folders
from sharc_core.grid.protocol import BATCH_NORM, name_of, rules_of
from sharc_core.grid.study_settings import STUDIES, added_sub_grids, with_study_settings
from sharc_core.grid.sub_grid import SubGrid
from sharc_core.grid.tuned import Tuned, read_tuned
from sharc_core.memory.budget_units import bytes_of, is_size
from sharc_core.streams.settings import StreamConfig, Tasks

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # a 64-bit integer in runs.csv
SubGridName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
# samples whose bytes still fit into 64 bits, or bytes, which may be written as a size
Buffer = Annotated[int, BeforeValidator(bytes_of), Field(ge=1, le=10**11)]
FeatureDevice = Annotated[str, AfterValidator(checked_name)]  # also one GPU of several, and Apple's
PLACES = {"data_dir", "results_dir", "mirror", "device"}  # keys that change no result
SCHEDULING = {"per_job", "keep_replaced"}  # keys of `cells` that change no result
GPU_BATCH = 8  # default number of cells per job on a GPU


def listed(value: Any) -> list:
    """Return a list as it is and any other value as a list of one. Axes of a grid may be given either way."""
    return value if isinstance(value, list) else [value]


class CellsConfig(Settings):
    """The device that cells are trained on, and how many of them share a process.

    per_job: number of cells per job; a job has cells of one data set, backbone and method. keep_replaced:
    copy a document of another grid to results_dir/outdated before a job replaces it.
    """

    device: Device = "cpu"
    per_job: int | None = Field(default=None, ge=1)
    keep_replaced: bool = False

    @property
    def batch(self) -> int:
        """Cells per job. On a GPU several cells share one start of the device by default."""
        return self.per_job or (1 if self.device == "cpu" else GPU_BATCH)


class DatasetConfig(StreamConfig):
    """One entry of `datasets`: its source, the keys of its stream, and the settings of the source.

    tasks: may be left out if the source has tasks of its own; load_grid then fills them in.
    """

    model_config = {"extra": "allow"}

    source: str
    tasks: Tasks | None = None  # type: ignore[assignment]  # a loaded grid has tasks

    @property
    def stream(self) -> StreamConfig:
        """How the classes are split into tasks."""
        return StreamConfig(**{key: getattr(self, key) for key in StreamConfig.model_fields})

    @property
    def has_features(self) -> bool:
        """Whether the data set has features in place of images, so that no backbone runs."""
        return has_features(self.source)

    def open_source(self, data_dir: str, mirror: str | None) -> Source:
        """Create the data source and validate its settings."""
        kind = SOURCES.get(self.source)
        settings = kind.Settings.model_validate(self.model_extra)
        return kind(settings, Path(data_dir), Path(mirror) if mirror else None)


class Grid(Settings):
    """All keys of a grid file. Further keys hold the settings of registered studies, by their names."""

    model_config = ConfigDict(extra="allow")

    datasets: dict[Name, DatasetConfig] = Field(min_length=1)
    backbone: BackboneConfig | list[BackboneConfig] | None = None  # None: no data set has images
    methods: list[str] = Field(
        default=["sgd", "joint", "er", "mer", "gem", "agem", "derpp", "clser"], min_length=1
    )
    variants: list[Variant] = Field(default=["plain", "sharc"], min_length=1)
    buffers: list[Buffer] = Field(default=[200, 500], min_length=1)
    scenarios: list[Scenario] = Field(default=["task_il", "class_il"], min_length=1)
    seeds: list[Seed] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    protocol: list[str] = Field(default=["paper"], min_length=1)
    training: Training = Training()
    head: HeadConfig = HeadConfig()
    sharc: Sharc = Sharc()
    budget: BudgetConfig | list[BudgetConfig] = BudgetConfig()
    memory: MemoryConfig = MemoryConfig()
    storage: str | list[str] = "float16"
    storage_settings: dict[str, dict[str, Any]] = {}
    method_settings: dict[str, dict[str, Any]] = {}
    studies: dict[SubGridName, SubGrid] = {}
    tuned: Tuned | None = None
    data_dir: WorkflowPath = "data"
    results_dir: WorkflowPath = "results"
    mirror: str | None = None
    device: FeatureDevice = "auto"
    cells: CellsConfig = CellsConfig()

    @model_validator(mode="before")
    @classmethod
    def _study_settings(cls, values: Any) -> Any:
        """Turn the blocks of studies, which a dumped grid has as keys and values, into their models."""
        return with_study_settings(values, cls.model_fields) if isinstance(values, dict) else values

    @model_validator(mode="before")
    @classmethod
    def _sizes_are_total_bytes(cls, values: Any) -> Any:
        """Refuse sizes among the buffers where a buffer is a number of slots."""
        if not isinstance(values, dict):
            return values
        sizes = [buffer for buffer in listed(values.get("buffers")) if is_size(buffer)]
        budgets = listed(values.get("budget", {}))
        units = [budget.get("unit", "floats") for budget in budgets if isinstance(budget, dict)]
        others = [unit for unit in units if unit != "total_bytes"]
        if sizes and others:
            raise ValueError(
                f"buffers: {sizes[0]} is a size: it needs budget.unit total_bytes, not {others[0]}"
            )
        return values

    @field_validator("methods", "variants", "buffers", "scenarios", "seeds", "protocol", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("tuned", mode="before")
    @classmethod
    def _read_tuned(cls, value: Any) -> Any:
        """Replace the path of the file by its content, so that the grid's identity and record contain it."""
        if not isinstance(value, str):
            return value
        try:
            return read_tuned(value)
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("protocol")
    @classmethod
    def _one_name_each(cls, value: list[str]) -> list[str]:
        try:
            return [name_of(rules_of(protocol)) for protocol in value]
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("methods", "variants", "buffers", "scenarios", "seeds", "protocol")
    @classmethod
    def _no_repeats(cls, value: list) -> list:
        return no_repeats(value)

    def study_settings(self, name: str) -> Settings:
        """Return the settings of a registered study; its defaults where the file has no such block."""
        return self.study_blocks.get(name) or STUDIES.get(name).Settings()

    @property
    def study_blocks(self) -> dict[str, Settings]:
        """The settings of the registered studies that the file has a block for, by name."""
        return self.model_extra or {}

    @property
    def sub_grids(self) -> dict[str, SubGrid]:
        """The entries of `studies`, then the sub-grids that registered studies of the file add."""
        return dict(self.studies) | added_sub_grids(self.study_blocks)

    def without_studies(self) -> dict[str, Any]:
        """Return the keys and values of the grid itself, without sub-grids and registered studies."""
        return self.model_dump(include=set(type(self).model_fields)) | {"studies": {}}

    @property
    def config_hash(self) -> str:
        """Hash of all keys and defaults that can change a result. Tables name it."""
        return config_hash(self.model_dump(mode="json"))

    @property
    def backbones(self) -> list[BackboneConfig]:
        """The backbone axis: every network with each of its values of batch_norm."""
        networks = [] if self.backbone is None else listed(self.backbone)
        return [variant for network in networks for variant in network.variants]

    @property
    def all_backbones(self) -> list[BackboneConfig]:
        """The backbone axis, with drifting variants where a protocol of the grid or a sub-grid has them."""
        backbones = self.backbones
        others = [listed((part.model_extra or {}).get("protocol", [])) for part in self.sub_grids.values()]
        if not any(sets_drifting(protocol) for protocol in chain(self.protocol, *others)):
            return backbones
        drifting = [backbone.model_copy(update={"batch_norm": "drifting"}) for backbone in backbones]
        names = {backbone.path_name for backbone in backbones}
        return [*backbones, *{d.path_name: d for d in drifting if d.path_name not in names}.values()]

    def backbones_of(self, dataset: str) -> list[BackboneConfig] | list[OwnFeatures]:
        """The backbone axis of a data set. Features are not multiplied by backbones."""
        return [OWN_FEATURES] if self.datasets[dataset].has_features else self.backbones

    @property
    def all_pairs(self) -> list[tuple[str, BackboneConfig | OwnFeatures]]:
        """Names of data sets, each with its backbones of `all_backbones`. Images come first, by backbone."""
        own: list[str] = [name for name, dataset in self.datasets.items() if dataset.has_features]
        images = [name for name in self.datasets if name not in own]
        pairs: list[tuple[str, BackboneConfig | OwnFeatures]] = []
        pairs += [(name, backbone) for backbone in self.all_backbones for name in images]
        return pairs + [(name, OWN_FEATURES) for name in own]

    def source(self, dataset: str) -> Source:
        """Create the data source of a data set."""
        return self.datasets[dataset].open_source(self.data_dir, self.mirror)


def sets_drifting(protocol: Any) -> bool:
    """Return whether a protocol lets the batch norm of the backbone drift; False for an invalid protocol."""
    try:
        return BATCH_NORM in rules_of(protocol)
    except (UserError, AttributeError, TypeError):
        return False


def config_hash(values: dict[str, Any]) -> str:
    """Return Grid.config_hash of a dumped grid. Keys without effect on results do not count."""
    cells = {key: value for key, value in values.get("cells", {}).items() if key not in SCHEDULING}
    counted = {
        key: value for key, value in values.items() if key not in PLACES and (value or key not in OPTIONAL)
    }
    identity = counted | {"cells": cells}
    return short_sha256(digest(without_folders(identity), 64))
