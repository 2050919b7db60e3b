"""Read and validate grid files. An error is one line with the key, its value and what is allowed."""

from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sharc_core.common.errors import UserError
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
        refuse_code(path)
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


def refuse_code(path: Path | str) -> None:
    """Raise UserError for a grid file that switches on Snakemake's templates, which run code from the file.

    Snakemake reads a file given with --configfile before it reads the Snakefile, so the check is too late
    for it; `python -m sharc_core check` reads the file safely.
    """
    if TEMPLATES in Path(path).read_text(encoding="utf-8", errors="replace"):
        raise UserError(
            f"config file {path} has {TEMPLATES}, which makes Snakemake run code from the file: refused, "
            "write plain values"
        )


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
