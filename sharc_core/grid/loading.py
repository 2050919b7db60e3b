"""Read and validate grid files. An error is one line with the key, its value and what is allowed."""

from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sharc_core.common.errors import UserError, shown
from sharc_core.common.validation_messages import explain
from sharc_core.grid.blocks import Mass
from sharc_core.grid.checks import (
    check_axes,
    check_backbones,
    check_datasets,
    check_plug_ins,
    check_shares,
    check_values,
)
from sharc_core.grid.expansion import expanded
from sharc_core.grid.memory_checks import check_combinations
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.protocol import rules_of, with_protocol
from sharc_core.grid.stream_checks import check_streams, with_tasks
from sharc_core.grid.study_settings import is_taken
from sharc_core.grid.sub_grid import FURTHER_FIGURES, MAIN, MAIN_FIGURES, OF_SHARC, overridden
from sharc_core.methods import METHODS

TEMPLATES = "__use_yte__"
DEPTH_LIMIT, COUNT_LIMIT = 20, 100_000  # nesting depth and number of values in a grid file
RESERVED = {MAIN, *MAIN_FIGURES, *FURTHER_FIGURES, "first_task"}  # names that no sub-grid can have


def load_grid(values: dict[str, Any]) -> Grid:
    """Validate the values of a grid file, with paths expanded.

    Raises UserError with one line on the first problem and its remedy.
    """
    check_extent(values)
    try:
        grid = Grid.model_validate(values)
    except ValidationError as error:
        raise UserError(f"config: {explain(error, Grid)}") from None
    check_values(grid)
    check_axes(grid)
    check_plug_ins(grid)
    check_datasets(grid)
    grid = with_tasks(grid)
    check_shares(grid)
    check_streams(grid)
    check_backbones(grid)
    for protocol in grid.protocol:
        check_combinations(under_protocol(grid, protocol), protocol)
    for name in grid.studies:
        if name in RESERVED or is_taken(name, grid.study_blocks):
            raise UserError(f"config: studies.{name}: the name {name!r} is reserved: choose another")
    for name in grid.sub_grids:
        sub_grid_of(grid, name)
    return grid


def under_protocol(grid: Grid, protocol: str) -> Grid:
    """Return the grid with the options that a protocol sets."""
    if not rules_of(protocol):
        return grid
    changed = Grid.model_validate(with_protocol(grid.model_dump(), protocol))
    names = [backbone.path_name for backbone in changed.backbones]
    if len(set(names)) < len(names):
        raise UserError(
            f"config: under protocol {protocol} two backbones differ only in passes or maps: list one of them"
        )
    return changed


def sub_grid_of(grid: Grid, name: str) -> Grid:
    """Return the grid with the keys that one of its sub-grids overrides. Raises UserError."""
    sub_grid, where = grid.sub_grids[name], f"config: studies.{name}"
    try:
        part = load_grid(overridden(grid.model_dump(), sub_grid, Grid.model_fields))
    except UserError as error:
        raise UserError(f"{where}: {str(error).removeprefix('config: ')}") from None
    if sub_grid.figure in OF_SHARC:
        replaying = any(METHODS.get(method).uses_memory for method in part.methods)
        if "sharc" not in part.variants or not replaying:
            raise UserError(
                f"{where}: figure {sub_grid.figure} needs variant sharc and a method with a memory"
            )
        thetas = [listed(part.sharc.theta_of(scenario)) for scenario in part.scenarios]
        if sub_grid.figure == "theta" and any(isinstance(value, Mass) for value in chain(*thetas)):
            raise UserError(f"{where}: figure theta draws shares of channels: give numbers, not mass")
        if sub_grid.figure == "protocol" and "plain" not in part.variants:
            raise UserError(f"{where}: figure protocol compares both variants: add plain")
    return part


def load_config(path: Path | str) -> Grid:
    """Read a YAML grid file, expand its paths and validate it. Raises UserError."""
    values = read_config(path)
    check_extent(values)
    return load_grid(expanded(values)[0])


def read_config(path: Path | str) -> dict[str, Any]:
    """Read the keys and values of a YAML file without validating them. Raises UserError if it has none."""
    try:
        check_text(path)
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"config file {path} is not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: invalid text, dates and numbers
        problem = " ".join(str(error).split())
        raise UserError(f"config file {path} is not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"config file {path} must hold keys and values")
    return values


def check_text(path: Path | str) -> None:
    """Raise UserError for a grid file that would run code, or that sets a key twice.

    Snakemake's templates run code from the file. Snakemake reads a file given with --configfile before it
    reads the Snakefile, so the check is too late for it; `python -m sharc_core check` reads the file safely.
    Of a key that is there twice YAML takes the last value and is silent about the first.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if TEMPLATES in text:
        raise UserError(
            f"config file {path} has {TEMPLATES}, which makes Snakemake run code from the file: refused, "
            "write plain values"
        )
    with suppress(yaml.YAMLError, ValueError):  # who reads the values reports them
        _check_keys(path, text)


def _check_keys(path: Path | str, text: str) -> None:
    # By events: composing nodes with libyaml overflows the stack on deeply nested text.
    open_nodes: list[dict[str, Any]] = []  # "keys": lines of a mapping's keys, none for a sequence
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
        elif not isinstance(event, yaml.NodeEvent):
            continue
        elif open_nodes and open_nodes[-1]["keys"] is not None:
            node = open_nodes[-1]
            node["is_key"] = not node["is_key"]
            if node["is_key"] and isinstance(event, yaml.ScalarEvent):
                name, line = (event.value, event.implicit[0]), event.start_mark.line + 1  # 1 is not '1'
                if name in node["keys"]:
                    raise UserError(
                        f"config file {path} sets {shown(event.value)} in line {node['keys'][name]} and "
                        f"again in line {line}: remove one"
                    )
                node["keys"][name] = line
        if isinstance(event, yaml.CollectionStartEvent):
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            open_nodes.append({"keys": {} if is_mapping else None, "is_key": False})


def check_extent(values: Any) -> None:
    """Raise UserError for a value that contains itself or whose aliases expand to too many values."""
    queue, count = [(values, 0)], 0
    while queue:
        value, depth = queue.pop()
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            count += len(inner)
            if depth > DEPTH_LIMIT or count > COUNT_LIMIT:
                raise UserError(
                    f"config: more than {COUNT_LIMIT:,} values, or nested deeper than {DEPTH_LIMIT}: does an "
                    "alias (*) refer to itself?"
                )
            queue += [(item, depth + 1) for item in inner]
