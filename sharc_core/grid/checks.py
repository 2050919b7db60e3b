"""Checks that involve several keys of a grid. They run when each key has a valid type and range."""

from itertools import combinations
from typing import Any

from pydantic import BaseModel, ValidationError

from sharc_core.backbones.names import network_and_batch_norm
from sharc_core.backbones.own_features import NAME as OWN_FEATURES
from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import Registry
from sharc_core.common.settings import LARGEST, has_control
from sharc_core.common.validation_messages import explain
from sharc_core.datasets import SOURCES
from sharc_core.grid.memory_checks import check_storage
from sharc_core.grid.models import DatasetConfig, Grid, listed, sets_drifting
from sharc_core.grid.plug_in_settings import memory_of, settings_of
from sharc_core.grid.protocol import rules_of
from sharc_core.heads import HEADS
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency import SALIENCIES
from sharc_core.selection import SELECTIONS

PATH_NAME_LIMIT = 200  # letters in the name of a backbone, which may be the name of its weights file


def check_values(grid: Grid) -> None:
    """Refuse numbers beyond 64 bits and control characters in texts, at any key. Raises UserError."""

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict | list):
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(inner, f"{key}.{name}" if key else str(name))
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"config: {key}: numbers go up to {LARGEST} (got {shown(value)})")
        elif isinstance(value, str) and not key.endswith(".title") and has_control(value):
            raise UserError(f"config: {key}: control characters are not allowed (got {shown(value)})")

    walk(grid.model_dump(), "")


def check_axes(grid: Grid) -> None:
    """Refuse an empty or repeated list on axes that accept one value or several. Raises UserError."""
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
            raise UserError(f"config: {key}: the list is empty: give at least one value")
        repeated = [value for i, value in enumerate(listed(values)) if value in listed(values)[:i]]
        if repeated:
            value = repeated[0].model_dump() if isinstance(repeated[0], BaseModel) else repeated[0]
            name = repeated[0].path_name if key == "backbone" else value
            raise UserError(f"config: {key}: {name!r} is listed twice: remove one")


def _check_registered(registry: Registry, names: list[str], key: str) -> None:
    for name in names:
        try:
            registry.get(name)
        except UserError as error:
            raise UserError(f"config: {key}: {error}") from None


def check_plug_ins(grid: Grid) -> None:
    """Check that plug-ins exist and that their settings are valid. Raises UserError."""
    _check_registered(METHODS, grid.methods, "methods")
    _check_registered(METHODS, list(grid.method_settings), "method_settings")
    _check_registered(SALIENCIES, listed(grid.sharc.saliency), "sharc.saliency")
    _check_registered(SELECTIONS, [grid.memory.selection], "memory.selection")
    check_storage(listed(grid.storage), "storage")
    check_storage(list(grid.storage_settings), "storage_settings")
    for name in {*listed(grid.storage), *grid.storage_settings}:
        settings_of(REPRESENTATIONS, name, grid.storage_settings.get(name, {}), "storage_settings")
    for name, values in grid.method_settings.items():
        settings_of(METHODS, name, values, "method_settings")
    for name in grid.methods:
        if grid.head.kind not in (heads := METHODS.get(name).heads):
            raise UserError(
                f"config: head.kind {grid.head.kind} cannot be combined with method {name}: use head.kind "
                f"{' or '.join(heads)}, or take {name} out of methods"
            )
    _check_head(grid)
    for key, names in (
        ("sharc.associative_memory", listed(grid.sharc.associative_memory)),
        ("sharc.associative_settings", list(grid.sharc.associative_settings)),
    ):
        for name in names:
            memory_of(grid.sharc, name, key)
    missing = {scenario for scenario in grid.scenarios if grid.sharc.theta_of(scenario) is None}
    if missing and "sharc" in grid.variants:
        raise UserError(f"config: sharc.theta has no value for scenario {sorted(missing)[0]}")


def _check_head(grid: Grid) -> None:
    kind, head = grid.head.kind, HEADS[grid.head.kind]
    if "sharc" in grid.variants:
        for saliency in listed(grid.sharc.saliency):
            if saliency in head.misfits:
                raise UserError(
                    f"config: sharc.saliency {saliency} cannot be combined with head.kind {kind}: "
                    f"{head.misfits[saliency]}; use another saliency"
                )
    if grid.head.bias_correction != "none" and not head.has_lengths:
        raise UserError(
            f"config: head.bias_correction {grid.head.bias_correction} cannot be combined with head.kind "
            f"{kind}, whose logits do not depend on the lengths of weights: use bias_correction none"
        )


def check_datasets(grid: Grid) -> None:
    """Check the settings of each data set. Raises UserError."""
    for name, dataset in grid.datasets.items():
        _check_registered(SOURCES, [dataset.source], f"datasets.{name}.source")
        try:
            dataset.open_source(grid.data_dir, grid.mirror)
        except ValidationError as error:
            kind = SOURCES.get(dataset.source).Settings
            also = list(DatasetConfig.model_fields)
            raise UserError(f"config: {explain(error, kind, f'datasets.{name}', also)}") from None
        except UserError as error:
            raise UserError(f"config: datasets.{name}: {error}") from None


def check_shares(grid: Grid) -> None:
    """Check buffers and budgets against protocols and the tasks of each data set. Raises UserError."""
    in_slots = [protocol for protocol in grid.protocol if "budget" in rules_of(protocol)]
    if in_slots and any(budget.unit == "total_bytes" for budget in listed(grid.budget)):
        raise UserError(
            f"config: budget.unit total_bytes cannot be combined with protocol {in_slots[0]}, which counts "
            "buffers in slots: write two grids"
        )
    for name, dataset in grid.datasets.items():
        tasks = dataset.stream.count
        for budget in listed(grid.budget):
            if isinstance(budget.split, list) and len(budget.split) != tasks:
                raise UserError(
                    f"config: budget.split has {len(budget.split)} shares but {name} has {tasks} "
                    "tasks: give one share per task, or equal, or carry"
                )
        smallest, has_slots = min(grid.buffers), any(b.unit != "total_bytes" for b in listed(grid.budget))
        replaying = [m for m in grid.methods if METHODS.get(m).uses_memory]
        if replaying and has_slots and smallest < tasks:
            raise UserError(
                f"config: buffers: {smallest} is smaller than the {tasks} tasks of {name}; "
                f"give each task a slot: {tasks} or more"
            )


def check_backbones(grid: Grid) -> None:
    """Check that data sets have backbones, their names, and epochs against a drifting batch norm.

    Raises UserError.
    """
    _check_own_features(grid)
    if grid.backbone is None:
        return
    names = [backbone.path_name for backbone in grid.backbones]
    is_drifting = any(map(sets_drifting, grid.protocol)) or any(
        b.batch_norm == "drifting" for b in grid.backbones
    )
    if grid.training.epochs > 1 and is_drifting:
        raise UserError(
            f"config: training.epochs {grid.training.epochs} cannot be combined with batch_norm drifting: "
            "a training image has features for one visit only; use epochs 1, frozen or adapted"
        )
    if grid.training.steps_per_batch > 1 and is_drifting:
        raise UserError(
            f"config: training.steps_per_batch {grid.training.steps_per_batch:g} cannot be combined with "
            "batch_norm drifting: a step is a pass that moves its statistics; use 1, frozen or adapted"
        )
    for backbone in listed(grid.backbone):
        if network_and_batch_norm(backbone.network_name)[1] != "frozen":
            raise UserError(
                f"config: backbone: the name {backbone.network_name!r} ends like that of a backbone whose "
                "batch norm is not frozen: give another name"
            )
    for one, other in combinations(listed(grid.backbone), 2):
        own = {"batch_norm", "passes", "maps"}
        if one.network_name == other.network_name and (
            one.model_dump(exclude=own) != other.model_dump(exclude=own)
        ):
            raise UserError(
                f"config: backbone: two are called {one.network_name!r}: give each a name, because they "
                "differ in more than batch_norm, passes and maps"
            )
    if long := [b.path_name for b in grid.all_backbones if len(b.path_name) > PATH_NAME_LIMIT]:
        raise UserError(f"config: backbone: {shown(long[0])} is too long for a folder name: shorten it")
    repeated = {n for n in names if names.count(n) > 1}
    if repeated:
        raise UserError(f"config: backbone: two are called {repeated.pop()!r}: give each a name")


def _check_own_features(grid: Grid) -> None:
    """Refuse images without a backbone, and a backbone or protocol that cannot be used with features."""
    images = [name for name, dataset in grid.datasets.items() if not dataset.has_features]
    if images and grid.backbone is None:
        raise UserError(
            f"config: backbone is missing: {images[0]} has images; only data sets of source features need "
            "none"
        )
    if len(images) < len(grid.datasets) and OWN_FEATURES in [b.network_name for b in grid.backbones]:
        raise UserError(
            f"config: backbone: the name {OWN_FEATURES!r} stands for data sets of source features: give "
            "another"
        )
    if not images and (drifting := [name for name in grid.protocol if sets_drifting(name)]):
        raise UserError(
            f"config: protocol: {drifting[0]} changes a backbone's batch norm, and no backbone runs on data "
            "sets of source features: remove the rule batch_norm"
        )
