"""Settings of plug-ins that a grid file names, validated and completed with their defaults."""

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
from sharc_core.grid.blocks import Sharc
from sharc_core.grid.models import Grid


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


def pretrain_source(grid: Grid, backbone: BackboneConfig) -> Source:
    """The data that a backbone is pre-trained on. Raises UserError for bad settings."""
    block = dict(backbone.pretrain.dataset)
    kind = SOURCES.get(block.pop("source", "(none given)"))
    try:
        settings = kind.Settings.model_validate(block)
    except ValidationError as error:
        raise UserError(explain(error, kind.Settings, "pretrain.dataset")) from None
    return kind(settings, Path(grid.data_dir), Path(grid.mirror) if grid.mirror else None)
