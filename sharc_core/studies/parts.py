"""Cells that a study with jobs makes from a grid with other values on some axes, as a sub-grid does."""

from typing import Any

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Cell
from sharc_core.grid.loading import load_grid
from sharc_core.grid.models import Grid
from sharc_core.grid.sub_grid import SubGrid, overridden
from sharc_core.grid.unroll import cells


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
