"""Validate the settings of plug-ins that a grid file names and fill in their defaults."""

import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones import BackboneConfig
from sharc_core.common.errors import UserError, shown
from sharc_core.common.registry import Registry
from sharc_core.common.settings import NAME
from sharc_core.common.validation_messages import explain
from sharc_core.datasets import SOURCES, Source
from sharc_core.datasets.feature_source import has_features
from sharc_core.grid.blocks import Sharc
from sharc_core.grid.models import Grid


def settings_of(
    registry: Registry, name: str, values: dict[str, Any], key: str, called: str | None = None
) -> dict[str, Any]:
    """Validate a plug-in's settings and return them with all defaults, as a plain dict.

    key, called: block and name under which the file has the values, for the message. Raises UserError.
    """
    kind = registry.get(name).Settings
    try:
        return kind.model_validate(values).model_dump()
    except ValidationError as error:
        raise UserError(f"config: {explain(error, kind, f'{key}.{called or name}')}") from None


def memory_of(sharc: Sharc, name: str, key: str = "sharc.associative_memory") -> tuple[str, dict[str, Any]]:
    """Return the kind and complete settings of an associative memory of the grid.

    name: a registered kind, or a name that the file gives to a kind with other settings, as in
    `associative_settings: {<name>: {kind: <kind>, ...}}`. Raises UserError.
    """
    values = dict(sharc.associative_settings.get(name, {}))
    kind = values.pop("kind", name)
    try:
        registered = ASSOCIATIVE_MEMORIES.names()
        if name in registered and kind != name:
            raise UserError(f"{name!r} is the name of a kind: choose another name for a {kind}")
        if kind != name and (len(name) > 64 or not re.fullmatch(NAME, name)):
            raise UserError(
                f"{shown(name)} must have at most 64 letters, digits, '_', '.' and '-': it names files"
            )
        ASSOCIATIVE_MEMORIES.get(kind)
    except UserError as error:
        raise UserError(f"config: {key}: {error}") from None
    return kind, settings_of(ASSOCIATIVE_MEMORIES, kind, values, "sharc.associative_settings", name)


def pretrain_source(grid: Grid, backbone: BackboneConfig) -> Source:
    """Create the source of the data that a backbone is pre-trained on. Raises UserError for bad settings."""
    block = dict(backbone.pretrain.dataset)
    source = block.pop("source", "(none given)")
    kind = SOURCES.get(source)
    if has_features(source):
        raise UserError(
            "pretrain.dataset: source features has no images to pre-train on: name another source"
        )
    try:
        settings = kind.Settings.model_validate(block)
    except ValidationError as error:
        raise UserError(explain(error, kind.Settings, "pretrain.dataset")) from None
    return kind(settings, Path(grid.data_dir), Path(grid.mirror) if grid.mirror else None)
