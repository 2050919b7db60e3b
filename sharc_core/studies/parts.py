"""Cells that a study with jobs makes from a grid with other values on some axes, as a sub-grid does."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.loading import load_grid
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import SubGrid, overridden
from sharc_core.grid.unroll import cells
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency import SALIENCIES
from sharc_core.selection import SELECTIONS
from sharc_core.studies.base import Roots

# The axes of a grid that give a method and variant several cells, and their keys. A theta has a scenario.
KEYS = {
    "saliency": "sharc.saliency",
    "associative_memory": "sharc.associative_memory",
    "budget_unit": "budget",
    "budget_split": "budget",
    "count_associative_memory": "budget",
    "storage": "storage",
}


REGISTRIES = (METHODS, ASSOCIATIVE_MEMORIES, SALIENCIES, REPRESENTATIONS, SELECTIONS)  # of Cell.plugins


def code_of_cells(module: str, cells: Iterable[Cell]) -> Roots:
    """Return roots of the code that a job with these cells depends on: its module and their plug-ins."""
    plugins = [pair for cell in cells for pair in zip(REGISTRIES, cell.plugins, strict=True)]
    files = {Path(registry.module_file(name)) for registry, name in plugins if name is not None}
    return module, *sorted(files)


def cells_of(grid: Grid, study: str, changes: dict[str, Any]) -> list[Cell]:
    """Return the cells of a grid with other values of some keys, without those of a drifting backbone.

    changes: as an entry of `studies` in a grid file. A drifting backbone's features differ from seed to seed.
    Raises UserError for values that do not fit the grid if the grid file configures the study; else the study
    has no such cells.
    """
    try:
        part = load_grid(overridden(grid.model_dump(), SubGrid.model_validate(changes), Grid.model_fields))
        found = cells(part)
    except UserError as error:
        if study not in grid.study_blocks:
            return []
        raise UserError(f"config: {study}: {str(error).removeprefix('config: ')}") from None
    return [cell for cell in found if cell.batch_norm != "drifting"]


def single_cells_of(grid: Grid, study: str, changes: dict[str, Any]) -> list[Cell]:
    """Return cells_of for a study that compares methods and variants, which must have one cell each.

    Raises UserError, which names the key, if one has several in a scenario and the grid file configures the
    study; else the study has no such cells.
    """
    first: dict[tuple[str, ...], Cell] = {}
    made = cells_of(grid, study, changes)
    for cell in made:
        for scenario in cell.scenarios:
            place = (cell.dataset, cell.backbone, cell.method, cell.variant, scenario)
            other = first.setdefault(place, cell)
            if other is not cell and study not in grid.study_blocks:
                return []
            if other is not cell:
                raise UserError(
                    f"config: {study}: {_key_of(other, cell, scenario)} has several values, but the study "
                    f"compares methods, which have one cell each in {scenario}: give one value"
                )
    return made


def _key_of(cell: Cell, other: Cell, scenario: str) -> str:
    """Return the key of the grid in which two cells of a method and variant differ."""
    differing = (key for name, key in KEYS.items() if getattr(cell, name) != getattr(other, name))
    return next(differing, f"sharc.theta.{scenario}")
