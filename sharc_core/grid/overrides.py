"""Convert the values of Snakemake's --config to those that a grid file would have.

Snakemake converts numbers, True and False only where they are the complete value of a key. Inside lists and
blocks everything is text. The types of the grid's models decide where a text becomes a number, so a data set
named "7" keeps its name.
"""

import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.backbones.config import PretrainConfig
from sharc_core.common.errors import UserError
from sharc_core.common.registry import Registry
from sharc_core.datasets import SOURCES
from sharc_core.grid.blocks import Sharc
from sharc_core.grid.expansion import expanded
from sharc_core.grid.loading import check_extent, load_grid
from sharc_core.grid.models import DatasetConfig, Grid
from sharc_core.grid.study_settings import STUDIES
from sharc_core.grid.sub_grid import SubGrid
from sharc_core.methods import METHODS

INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")  # 007 is a name or a mistake
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
WORDS = {"true": True, "false": False, "null": None}  # in any case; yes, no, on and off may be names
LONGEST = 1000  # digits of a number; Python refuses longer ones
HOW = (
    "given with --config; write a list as 'seeds=[7, 8]', a block as 'training={lr: 0.03}' and a folder "
    "whose name is a number as 'results_dir=./7'"
)


class _PlugIns:
    """The type of a block that holds settings by the name of a plug-in."""

    def __init__(self, registry: Registry):
        self.registry = registry


def read_grid(values: dict[str, Any], given: Mapping[str, Any]) -> tuple[Grid, dict[str, Any], set[str]]:
    """Return the grid of a call of Snakemake, its final values, and the variables in its paths.

    values: Snakemake's config. given: the part of it that comes from --config. Raises UserError.
    """
    check_extent(values)
    final, variables = expanded(with_overrides(values, given))
    try:
        return load_grid(final), final, variables
    except UserError as error:
        raise explained(error, given) from None


def with_overrides(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with those of --config converted to the types of the grid's models.

    values: Snakemake's config, which contains `given`. Values from the grid file itself are not converted,
    because YAML already gave them a type.
    """
    return _merged(dict(values), _block(dict(given), Grid, values))


def explained(error: UserError, given: Mapping[str, Any]) -> UserError:
    """Return the error, with a hint on the syntax of --config if its key was given there."""
    match = re.match(r"config: (?:unknown key ')?([A-Za-z_]+)", str(error))
    return UserError(f"{error} ({HOW})") if match and match[1] in given else error


def _merged(values: Any, given: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(given, dict):
        return given
    return values | {key: _merged(values.get(key), value) for key, value in given.items()}


def _block(given: dict[str, Any], model: type[BaseModel] | None, merged: Any) -> dict[str, Any]:
    """Convert the values of a block. merged: the block of the grid with `given` in it."""
    merged = merged if isinstance(merged, dict) else {}
    return {
        key: _converted(value, _type_of(key, model, merged), merged.get(key)) for key, value in given.items()
    }


def _type_of(key: str, model: type[BaseModel] | None, block: dict[str, Any]) -> Any:
    """Return the type of a key of a block, Any if it is unknown."""
    if (model, key) == (Grid, "method_settings"):
        return _PlugIns(METHODS)
    if (model, key) == (Sharc, "associative_settings"):
        return _PlugIns(ASSOCIATIVE_MEMORIES)
    if (model, key) == (PretrainConfig, "dataset"):
        return DatasetConfig
    if model is not None and key in model.model_fields:
        return model.model_fields[key].annotation
    if model is Grid:
        return _settings(STUDIES, key) or Any
    if model is SubGrid:
        return list[str] if key == "datasets" else _type_of(key, Grid, block)
    if model is DatasetConfig:
        return _type_of(key, _settings(SOURCES, block.get("source")), block)
    return Any


def _settings(registry: Registry, name: Any) -> type[BaseModel] | None:
    try:
        return registry.get(name).Settings
    except UserError:
        return None


def _converted(value: Any, kind: Any, merged: Any) -> Any:
    """Convert the texts in a value where its type asks for numbers or words."""
    if isinstance(kind, _PlugIns) and isinstance(value, dict):
        return {name: _of_plug_in(block, kind.registry, name, merged) for name, block in value.items()}
    options = [] if isinstance(kind, _PlugIns) else list(_options(kind))
    if isinstance(value, list):
        inner = [get_args(option)[0] for option in options if get_origin(option) is list]
        return [_converted(item, _item_kind(item, inner), None) for item in value]
    if isinstance(value, dict):
        models = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        inner = [get_args(option)[1] for option in options if get_origin(option) is dict]
        if models:
            return _block(value, models[0], merged)
        merged = merged if isinstance(merged, dict) else {}
        return {k: _converted(item, inner[0] if inner else Any, merged.get(k)) for k, item in value.items()}
    return _scalar(value, options) if isinstance(value, str) else value


def _item_kind(item: Any, inner: list[Any]) -> Any:
    """Return the type of a list's item: of the possible ones the first for lists, or for anything else."""
    fitting = [
        kind
        for kind in inner
        if isinstance(item, list) == any(get_origin(option) is list for option in _options(kind))
    ]
    return next(iter([*fitting, *inner]), Any)


def _of_plug_in(block: Any, registry: Registry, name: str, merged: Any) -> Any:
    """Convert the settings of a plug-in. A block with another name gives the plug-in as `kind`."""
    if not isinstance(block, dict):
        return block
    merged = merged.get(name) if isinstance(merged, dict) else None
    kind = merged.get("kind", name) if isinstance(merged, dict) else name
    return _block(block, _settings(registry, kind), merged)


def _options(kind: Any) -> Iterator[Any]:
    """Yield the members of a union type, or the type itself, without constraints."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _options(get_args(kind)[0])
    elif origin in (Union, types.UnionType):
        for option in get_args(kind):
            yield from _options(option)
    else:
        yield kind


def _scalar(text: str, options: list[Any]) -> Any:
    """Convert a text to a number, True, False or None, unless the type allows the text itself."""
    word = WORDS.get(text.lower(), text)
    if word is None and types.NoneType in options:
        return None
    # where a list is expected, a single value is an item of it
    items = [
        item for option in options if get_origin(option) is list for item in _options(get_args(option)[0])
    ]
    options = [*options, *items]
    numbers = {int, float} & set(options)
    # Of a type with texts and fractions (a value to tune) "0.1" is a number. Of one with texts and integers
    # (names of classes) "3" is a text.
    if (str in options and float not in options) or any(
        get_origin(option) is Literal and text in get_args(option) for option in options
    ):
        return text
    is_free = not numbers and bool not in options
    if isinstance(word, bool) or word is None:
        return word if is_free or bool in options else text
    if (numbers or is_free) and len(text) < LONGEST:
        if INTEGER.fullmatch(text):
            return int(text)
        if NUMBER.fullmatch(text) and not text.lstrip("+-").isdigit():
            return float(text)
    return text
