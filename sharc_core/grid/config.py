"""The grid as typed models: defaults, ranges, cross-checks and their messages, all in one place.

A config file (config.yaml, config/*.yaml) becomes a Grid. Errors are one line that names the key, the
value and what is allowed. What a grid's cells are: sharc_core.grid.unroll.
"""

import re
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.names import network_and_batch_norm
from sharc_core.common.errors import UserError, shown
from sharc_core.common.files import digest, short_sha256
from sharc_core.common.registry import Registry
from sharc_core.common.settings import LARGEST, NAME, Name, Settings, WorkflowPath, has_control, no_repeats
from sharc_core.common.validation_messages import explain
from sharc_core.datasets import SOURCES, Source
from sharc_core.grid.blocks import BudgetConfig, Mass, MemoryConfig, Sharc
from sharc_core.grid.cell import Device, HeadConfig, Scenario, Training, Variant
from sharc_core.grid.expansion import expanded, without_folders
from sharc_core.grid.protocol import BATCH_NORM, PAPER, name_of, rules_of, with_protocol
from sharc_core.grid.recall_settings import RecallStudy
from sharc_core.grid.sub_grid import MAIN, OF_SHARC, Study, overridden
from sharc_core.methods import METHODS
from sharc_core.saliency import SALIENCIES

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # runs.csv holds them as 64-bit integers
Storage = Literal["float32", "float16", "int8"]
StudyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]
Buffer = Annotated[int, Field(ge=1, le=10**11)]  # samples: their bytes still fit 64 bits
TEMPLATES = "__use_yte__"
PATH_NAME_LIMIT = 200  # letters of a backbone's name, which may be that of its weights file
DEPTH_LIMIT, COUNT_LIMIT = 20, 100_000  # of the values in a grid file
PLACES = {"data_dir", "results_dir", "mirror", "device"}  # where a grid is run, not what it is
GPU_BATCH = 8  # cells per job there, unless the file says otherwise
TAKEN = {MAIN, "learning_curves", "bytes", "first_task"}  # by the grid, in runs.csv and among the figures


def listed(value: Any) -> list:
    """A single value as a list of one: any axis of the grid may be given either way."""
    return value if isinstance(value, list) else [value]


class CellsConfig(Settings):
    """Where cells are trained, and how many of one data set, backbone and method share a process.

    keep_replaced: documents of another grid, which a cell's job replaces, are kept in results_dir/outdated.
    """

    device: Device = "cpu"
    per_job: int | None = Field(default=None, ge=1)
    keep_replaced: bool = False

    @property
    def batch(self) -> int:
        """Cells per job: those on a GPU share its start by default."""
        return self.per_job or (1 if self.device == "cpu" else GPU_BATCH)


class DatasetConfig(BaseModel):
    """One entry of `datasets`: source, tasks, class order, and whatever its source takes."""

    model_config = {"extra": "allow", "frozen": True, "strict": True}

    source: str
    tasks: int = Field(ge=1)
    class_order_seed: int | None = None

    def open_source(self, data_dir: str, mirror: str | None) -> Source:
        """The source object with its own settings validated."""
        kind = SOURCES.get(self.source)
        settings = kind.Settings.model_validate(self.model_extra)
        return kind(settings, Path(data_dir), Path(mirror) if mirror else None)


class Grid(Settings):
    """A whole config file."""

    datasets: dict[Name, DatasetConfig] = Field(min_length=1)
    backbone: BackboneConfig | list[BackboneConfig]
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
    storage: Storage | list[Storage] = "float16"
    method_settings: dict[str, dict[str, Any]] = {}
    studies: dict[StudyName, Study] = {}
    recall: RecallStudy = RecallStudy()
    data_dir: WorkflowPath = "data"
    results_dir: WorkflowPath = "results"
    mirror: str | None = None
    device: Device = "auto"
    cells: CellsConfig = CellsConfig()

    @field_validator("methods", "variants", "buffers", "scenarios", "seeds", "protocol", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return listed(value)

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

    @property
    def config_hash(self) -> str:
        """What tables name: a hash of all keys, defaults filled in, but for where the grid is run."""
        return config_hash(self.model_dump(mode="json"))

    @property
    def backbones(self) -> list[BackboneConfig]:
        """The backbone axis: every network with every value of its batch_norm."""
        return [variant for backbone in listed(self.backbone) for variant in backbone.variants]

    @property
    def all_backbones(self) -> list[BackboneConfig]:
        """The axis, and what a protocol of the grid or of a study makes of it."""
        found = self.backbones
        of_studies = [listed(study.model_extra.get("protocol", [])) for study in self.studies.values()]
        if any(_drifts(protocol) for protocol in chain(self.protocol, *of_studies)):
            drifting = [one.model_copy(update={"batch_norm": "drifting"}) for one in found]
            names = {one.path_name for one in found}
            found = [*found, *{d.path_name: d for d in drifting if d.path_name not in names}.values()]
        return found

    def source(self, dataset: str) -> Source:
        """The data source of one data set."""
        return self.datasets[dataset].open_source(self.data_dir, self.mirror)


def _drifts(protocol: Any) -> bool:
    """Whether a protocol has the backbone's batch norm drift; one that is not valid is told of elsewhere."""
    try:
        return BATCH_NORM in rules_of(protocol)
    except (UserError, AttributeError, TypeError):
        return False


def config_hash(values: dict[str, Any]) -> str:
    """Grid.config_hash of a grid's keys and values, complete and JSON-able (but for how cells are run)."""
    how = ("per_job", "keep_replaced")  # no number depends on them
    cells = {key: value for key, value in values.get("cells", {}).items() if key not in how}
    identity = {key: value for key, value in (values | {"cells": cells}).items() if key not in PLACES}
    return short_sha256(digest(without_folders(identity), 64))


def load_grid(values: dict[str, Any]) -> Grid:
    """Validate a config whose paths are expanded. Raises UserError: one line for the first thing wrong, with
    the remedy.
    """
    check_extent(values)
    try:
        grid = Grid.model_validate(values)
    except ValidationError as error:
        raise UserError(f"config: {explain(error, Grid)}") from None
    _check_values(grid)
    _check_axes(grid)
    _check_names(grid)
    for protocol in grid.protocol:
        _check_selection(under_protocol(grid, protocol), protocol)
    for name in grid.studies:
        study_grid(grid, name)
    return grid


def under_protocol(grid: Grid, protocol: str) -> Grid:
    """The grid with the options that a protocol sets."""
    if not rules_of(protocol):
        return grid
    found = Grid.model_validate(with_protocol(grid.model_dump(), protocol))
    names = [backbone.path_name for backbone in found.backbones]
    if len(set(names)) < len(names):
        raise UserError(
            f"config: protocol {protocol} makes one backbone of two that differ in passes or maps: list one"
        )
    return found


def study_grid(grid: Grid, name: str) -> Grid:
    """The grid with what one of its studies overrides. Raises UserError."""
    study, where = grid.studies[name], f"config: studies.{name}"
    if name in TAKEN or name.startswith("recall_"):
        raise UserError(f"{where}: {name!r} is a name of the grid's own: choose another")
    try:
        part = load_grid(overridden(grid.model_dump(), study))
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('config: ')}") from None
    if study.figure in OF_SHARC:
        replaying = any(METHODS.get(method).uses_memory for method in part.methods)
        if "sharc" not in part.variants or not replaying:
            raise UserError(f"{where}: figure {study.figure} needs variant sharc and a method with a memory")
        thetas = [listed(part.sharc.theta[scenario]) for scenario in part.scenarios]
        if study.figure == "theta" and any(isinstance(value, Mass) for value in chain(*thetas)):
            raise UserError(f"{where}: figure theta draws shares of channels: give numbers, not mass")
        if study.figure == "protocol" and "plain" not in part.variants:
            raise UserError(f"{where}: figure protocol compares both variants: add plain")
    return part


def load_config(path: Path | str) -> Grid:
    """Read and validate a YAML grid file, its paths expanded. Raises UserError."""
    values = read_config(path)
    check_extent(values)
    return load_grid(expanded(values)[0])


def read_config(path: Path | str) -> dict[str, Any]:
    """The keys and values of a YAML file, not validated. Raises UserError when it holds none."""
    try:
        refuse_code(path)
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"config file {path} is not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # also text, dates and numbers that are none
        problem = " ".join(str(error).split())
        raise UserError(f"config file {path} is not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"config file {path} must hold keys and values")
    return values


def refuse_code(path: Path | str) -> None:
    """Raises UserError for a grid file that asks Snakemake for its templates, which run code in the file.

    Snakemake reads what follows --configfile before it reads a Snakefile: there this comes too late, and
    only `python -m sharc_core check` looks first.
    """
    if TEMPLATES in Path(path).read_text(encoding="utf-8", errors="replace"):
        raise UserError(
            f"config file {path} has {TEMPLATES}, with which Snakemake runs code that stands in the file: "
            "refused, write the values themselves"
        )


def settings_of(
    registry: Registry, name: str, values: dict[str, Any], key: str, called: str | None = None
) -> dict[str, Any]:
    """A plug-in's settings validated and completed with its defaults, as a plain dict.

    key, called: where the values stand in the file, for the message.
    """
    kind = registry.get(name).Settings
    try:
        return kind.model_validate(values).model_dump()
    except ValidationError as error:
        raise UserError(f"config: {explain(error, kind, f'{key}.{called or name}')}") from None


def memory_of(sharc: Sharc, name: str, key: str = "sharc.associative_memory") -> tuple[str, dict[str, Any]]:
    """Kind and complete settings of an associative memory of the grid.

    name: a registered kind, or one's own name for a kind with settings of its own, given as
    `associative_settings: {<name>: {kind: <kind>, ...}}`. Raises UserError.
    """
    values = dict(sharc.associative_settings.get(name, {}))
    kind = values.pop("kind", name)
    try:
        registered = ASSOCIATIVE_MEMORIES.names()
        if name in registered and kind != name:
            raise UserError(f"{name!r} is a kind itself: choose another name for a {kind}")
        if kind != name and (len(name) > 64 or not re.fullmatch(NAME, name)):
            raise UserError(
                f"{shown(name)} must consist of up to 64 letters, digits, '_', '.' and '-': it names files"
            )
        ASSOCIATIVE_MEMORIES.get(kind)
    except UserError as error:
        raise UserError(f"config: {key}: {error}") from None
    return kind, settings_of(ASSOCIATIVE_MEMORIES, kind, values, "sharc.associative_settings", name)


def check_extent(values: Any) -> None:
    """Raises UserError for a value that contains itself, or aliases that unfold to more than memory holds."""
    todo, count = [(values, 0)], 0
    while todo:
        value, depth = todo.pop()
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            count += len(inner)
            if depth > DEPTH_LIMIT or count > COUNT_LIMIT:
                raise UserError(
                    f"config: more than {COUNT_LIMIT:,} values, or nested deeper than {DEPTH_LIMIT}: does an "
                    "alias (*) refer to itself?"
                )
            todo += [(item, depth + 1) for item in inner]


def _check_values(grid: Grid) -> None:
    """Nothing that files or numbers would stumble over later, wherever it stands."""

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict | list):
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(inner, f"{key}.{name}" if key else str(name))
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"config: {key}: numbers go up to {LARGEST} (got {shown(value)})")
        elif isinstance(value, str) and not key.endswith(".title") and has_control(value):
            raise UserError(f"config: {key}: no control characters, please (got {shown(value)})")

    walk(grid.model_dump(), "")


def _check_axes(grid: Grid) -> None:
    """Axes that may be given as one value or many: no empty list, nothing twice."""
    axes = {
        "backbone": grid.backbone,
        "sharc.saliency": grid.sharc.saliency,
        "sharc.associative_memory": grid.sharc.associative_memory,
        "budget": grid.budget,
        "storage": grid.storage,
        **{f"sharc.theta.{scenario}": values for scenario, values in grid.sharc.theta.items()},
    }
    for key, values in axes.items():
        if values == []:
            raise UserError(f"config: {key}: the list is empty: give one value at least")
        repeated = [value for i, value in enumerate(listed(values)) if value in listed(values)[:i]]
        if repeated:
            shown = repeated[0].model_dump() if isinstance(repeated[0], BaseModel) else repeated[0]
            name = repeated[0].path_name if key == "backbone" else shown
            raise UserError(f"config: {key}: {name!r} is listed twice: remove one")


def _check_selection(grid: Grid, protocol: str) -> None:
    """What a selection of samples cannot be combined with; grid: under the protocol."""
    selection, budgets = grid.memory.selection, listed(grid.budget)
    replaying = [METHODS.get(method) for method in grid.methods if METHODS.get(method).uses_memory]
    charged = any(budget.count_associative_memory for budget in budgets)
    if charged and grid.sharc.complete != "all" and "sharc" in grid.variants:
        raise UserError(
            f"config: sharc.complete {grid.sharc.complete} cannot be combined with "
            "budget.count_associative_memory: the associative memory learns maps that are not stored, which "
            "the budget does not foresee; use complete all, or do not count it"
        )
    clashes = []
    if selection != "last":
        clashes += [("budget.count_associative_memory", charged)]
    if selection == "reservoir" and not all(method.fills_at_task_end for method in replaying):
        er = grid.method_settings.get("er", {})
        clashes += [
            ("budget.unit nonzero", any(budget.unit == "nonzero" for budget in budgets)),
            ("budget.split", any(budget.split != "equal" for budget in budgets)),
            ("method_settings.er.replay whole", "er" in grid.methods and er.get("replay") == "whole"),
        ]
        if "sharc" in grid.variants:
            sharc, thetas = grid.sharc, chain(*map(listed, grid.sharc.theta.values()))
            clashes += [
                ("sharc.theta mass", any(isinstance(theta, Mass) for theta in thetas)),
                ("sharc.importance positive", sharc.importance == "positive"),
                (f"sharc.read {sharc.read}", sharc.read != "per_task"),
                (f"sharc.complete {sharc.complete}", sharc.complete != "all"),
                ("sharc.forget.unit batch", sharc.forget.unit == "batch"),
            ]
    for key, clashes_with_it in clashes:
        if clashes_with_it:
            where = "" if protocol == PAPER else f" under protocol {protocol}"
            raise UserError(
                f"config: memory.selection {selection}{where} cannot be combined with {key}: the samples it "
                "keeps must cost the same and be chosen without it; use selection last, or change the other"
            )


def _check_names(grid: Grid) -> None:
    """Names of plug-ins and their settings: everything that needs no data."""

    def check(registry: Registry, names: list[str], key: str) -> None:
        for name in names:
            try:
                registry.get(name)
            except UserError as error:
                raise UserError(f"config: {key}: {error}") from None

    check(METHODS, grid.methods, "methods")
    check(METHODS, list(grid.method_settings), "method_settings")
    check(SALIENCIES, listed(grid.sharc.saliency), "sharc.saliency")
    for name, values in grid.method_settings.items():
        settings_of(METHODS, name, values, "method_settings")
    for key, names in (
        ("sharc.associative_memory", listed(grid.sharc.associative_memory)),
        ("sharc.associative_settings", list(grid.sharc.associative_settings)),
    ):
        for name in names:
            memory_of(grid.sharc, name, key)
    missing = set(grid.scenarios) - set(grid.sharc.theta)
    if missing and "sharc" in grid.variants:
        raise UserError(f"config: sharc.theta has no value for scenario {sorted(missing)[0]}")
    for name, dataset in grid.datasets.items():
        check(SOURCES, [dataset.source], f"datasets.{name}.source")
        try:
            dataset.open_source(grid.data_dir, grid.mirror)
        except ValidationError as error:
            kind = SOURCES.get(dataset.source).Settings
            also = list(DatasetConfig.model_fields)
            raise UserError(f"config: {explain(error, kind, f'datasets.{name}', also)}") from None
        for budget in listed(grid.budget):
            if isinstance(budget.split, list) and len(budget.split) != dataset.tasks:
                raise UserError(
                    f"config: budget.split has {len(budget.split)} shares but {name} has {dataset.tasks} "
                    "tasks: give one share per task, or equal, or carry"
                )
        smallest = min(grid.buffers)
        replaying = [m for m in grid.methods if METHODS.get(m).uses_memory]
        if replaying and smallest < dataset.tasks:
            raise UserError(
                f"config: buffers: {smallest} is smaller than the {dataset.tasks} tasks of {name}; "
                f"give every task a slot: {dataset.tasks} or more"
            )
    names = [backbone.path_name for backbone in grid.backbones]
    drifts = any(map(_drifts, grid.protocol)) or any(b.batch_norm == "drifting" for b in grid.backbones)
    if grid.training.epochs > 1 and drifts:
        raise UserError(
            f"config: training.epochs {grid.training.epochs} cannot be combined with batch_norm drifting: "
            "the features of a training image are those of its only visit; use epochs 1, frozen or adapted"
        )
    for backbone in listed(grid.backbone):
        if network_and_batch_norm(backbone.network_name)[1] != "frozen":
            raise UserError(
                f"config: backbone: {backbone.network_name!r} ends as the name of one whose batch norm "
                "is not frozen: give another name"
            )
    for one, other in combinations(listed(grid.backbone), 2):
        own = {"batch_norm", "passes", "maps"}
        if one.network_name == other.network_name and (
            one.model_dump(exclude=own) != other.model_dump(exclude=own)
        ):
            raise UserError(
                f"config: backbone: two are called {one.network_name!r}: give each a name, as they differ in "
                "more than batch_norm, passes and maps"
            )
    if long := [b.path_name for b in grid.all_backbones if len(b.path_name) > PATH_NAME_LIMIT]:
        raise UserError(f"config: backbone: {shown(long[0])} is too long for a folder: give a shorter name")
    repeated = {n for n in names if names.count(n) > 1}
    if repeated:
        raise UserError(f"config: backbone: two are called {repeated.pop()!r}: give each a name")


def pretrain_source(grid: Grid, backbone: BackboneConfig) -> Source:
    """The data that a backbone is pre-trained on. Raises UserError for bad settings."""
    block = dict(backbone.pretrain.dataset)
    kind = SOURCES.get(block.pop("source", "(none given)"))
    try:
        settings = kind.Settings.model_validate(block)
    except ValidationError as error:
        raise UserError(explain(error, kind.Settings, "pretrain.dataset")) from None
    return kind(settings, Path(grid.data_dir), Path(grid.mirror) if grid.mirror else None)
