"""Read and validate a grid file. An error is one line that names the key, the value and what is allowed."""

from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sharc_core.common.errors import UserError
from sharc_core.common.validation_messages import explain
from sharc_core.grid.blocks import Mass
from sharc_core.grid.checks import check_axes, check_names, check_values
from sharc_core.grid.expansion import expanded
from sharc_core.grid.memory_checks import check_combinations
from sharc_core.grid.models import Grid, listed
from sharc_core.grid.protocol import rules_of, with_protocol
from sharc_core.grid.sub_grid import MAIN, OF_SHARC, overridden
from sharc_core.methods import METHODS

TEMPLATES = "__use_yte__"
DEPTH_LIMIT, COUNT_LIMIT = 20, 100_000  # of the values in a grid file
TAKEN = {MAIN, "learning_curves", "bytes", "first_task"}  # by the grid, in runs.csv and among the figures


def load_grid(values: dict[str, Any]) -> Grid:
    """Validate a config whose paths are expanded. Raises UserError: one line for the first thing wrong, with
    the remedy.
    """
    check_extent(values)
    try:
        grid = Grid.model_validate(values)
    except ValidationError as error:
        raise UserError(f"config: {explain(error, Grid)}") from None
    check_values(grid)
    check_axes(grid)
    check_names(grid)
    for protocol in grid.protocol:
        check_combinations(under_protocol(grid, protocol), protocol)
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
