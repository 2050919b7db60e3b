"""What stands after Snakemake's --config, read as a grid file's values.

Snakemake takes numbers, True and False there only where they are a key's whole value: inside lists and
blocks all is text. The types of the grid say where a number is wanted; a data set called "7" keeps its name.
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
from sharc_core.grid.sub_grid import Study
from sharc_core.methods import METHODS

WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")  # 007 is a name, or a slip
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
WORDS = {"true": True, "false": False, "null": None}  # in any case; YAML's yes, no, on, off may be names
LONGEST = 1000  # digits; Python refuses longer ones
HOW = (
    "given with --config, where lists are written 'seeds=[7, 8]', blocks 'training={lr: 0.03}' and a folder "
    "named by a number 'results_dir=./7'"
)


class _PlugIns:
    """The type of a block that holds settings by the name of a plug-in."""

    def __init__(self, registry: Registry):
        self.registry = registry


def read_grid(values: dict[str, Any], given: Mapping[str, Any]) -> tuple[Grid, dict[str, Any], set[str]]:
    """The grid of a call of Snakemake, its final keys and values, and the variables in its paths.

    values: Snakemake's config. given: what of it stands after --config. Raises UserError.
    """
    check_extent(values)
    found, variables = expanded(with_overrides(values, given))
    try:
        return load_grid(found), found, variables
    except UserError as error:
        raise explained(error, given) from None


def with_overrides(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a grid with those of --config as numbers and words where the grid's types want them.

    values: as Snakemake hands them over, those given merged into them. What stands in the grid file itself
    stays as it is: there a number is written as one.
    """
    return _merged(dict(values), _block(dict(given), Grid, values))


def explained(error: UserError, given: Mapping[str, Any]) -> UserError:
    """The error about a grid; where its key was given with --config, with how values are written there."""
    match = re.match(r"config: (?:unknown key ')?([A-Za-z_]+)", str(error))
    return UserError(f"{error} ({HOW})") if match and match[1] in given else error


def _merged(values: Any, given: Any) -> Any:
    if not isinstance(values, dict) or not isinstance(given, dict):
        return given
    return values | {key: _merged(values.get(key), value) for key, value in given.items()}


def _block(given: dict[str, Any], model: type[BaseModel] | None, beside: Any) -> dict[str, Any]:
    """A block with its values converted. beside: the block of the grid that it was merged into."""
    beside = beside if isinstance(beside, dict) else {}
    return {
        key: _converted(value, _type_of(key, model, beside), beside.get(key)) for key, value in given.items()
    }


def _type_of(key: str, model: type[BaseModel] | None, beside: dict[str, Any]) -> Any:
    """The type of a key of a block; Any where it is not known."""
    if (model, key) == (Grid, "method_settings"):
        return _PlugIns(METHODS)
    if (model, key) == (Sharc, "associative_settings"):
        return _PlugIns(ASSOCIATIVE_MEMORIES)
    if (model, key) == (PretrainConfig, "dataset"):
        return DatasetConfig
    if model is not None and key in model.model_fields:
        return model.model_fields[key].annotation
    if model is Study:
        return list[str] if key == "datasets" else _type_of(key, Grid, beside)
    if model is DatasetConfig:
        return _type_of(key, _settings(SOURCES, beside.get("source")), beside)
    return Any


def _settings(registry: Registry, name: Any) -> type[BaseModel] | None:
    try:
        return registry.get(name).Settings
    except UserError:
        return None


def _converted(value: Any, kind: Any, beside: Any) -> Any:
    """A value with its texts as numbers and words where the type asks for them."""
    if isinstance(kind, _PlugIns) and isinstance(value, dict):
        return {name: _of_plug_in(block, kind.registry, name, beside) for name, block in value.items()}
    options = [] if isinstance(kind, _PlugIns) else list(_options(kind))
    if isinstance(value, list):
        inner = [get_args(option)[0] for option in options if get_origin(option) is list]
        return [_converted(item, inner[0] if inner else Any, None) for item in value]
    if isinstance(value, dict):
        models = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        inner = [get_args(option)[1] for option in options if get_origin(option) is dict]
        if models:
            return _block(value, models[0], beside)
        beside = beside if isinstance(beside, dict) else {}
        return {k: _converted(item, inner[0] if inner else Any, beside.get(k)) for k, item in value.items()}
    return _scalar(value, options) if isinstance(value, str) else value


def _of_plug_in(block: Any, registry: Registry, name: str, beside: Any) -> Any:
    """The settings of a plug-in; `kind` names it where the block has a name of the user's."""
    if not isinstance(block, dict):
        return block
    beside = beside.get(name) if isinstance(beside, dict) else None
    kind = beside.get("kind", name) if isinstance(beside, dict) else name
    return _block(block, _settings(registry, kind), beside)


def _options(kind: Any) -> Iterator[Any]:
    """The types that a type allows: those of a union, without their constraints."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _options(get_args(kind)[0])
    elif origin in (Union, types.UnionType):
        for option in get_args(kind):
            yield from _options(option)
    else:
        yield kind


def _scalar(text: str, options: list[Any]) -> Any:
    """A text as what it stands for, unless the text itself may be wanted."""
    word = WORDS.get(text.lower(), text)
    if word is None and types.NoneType in options:
        return None
    # a single value may stand for a list of one
    items = [
        item for option in options if get_origin(option) is list for item in _options(get_args(option)[0])
    ]
    options = [*options, *items]
    if str in options or any(
        get_origin(option) is Literal and text in get_args(option) for option in options
    ):
        return text
    numbers = {int, float} & set(options)
    is_free = not numbers and bool not in options
    if isinstance(word, bool) or word is None:
        return word if is_free or bool in options else text
    if (numbers or is_free) and len(text) < LONGEST:
        if WHOLE.fullmatch(text):
            return int(text)
        if NUMBER.fullmatch(text) and not text.lstrip("+-").isdigit():
            return float(text)
    return text
