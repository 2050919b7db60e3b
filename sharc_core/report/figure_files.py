"""All figures of a grid, its sub-grids and its studies, for the rule that makes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sharc_core.figures.write import write_figures
from sharc_core.grid.sub_grid import SubGrid
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.studies.base import Results
from sharc_core.studies.registered import backbones_of_runs, cell_studies


def write_all_figures(
    cells: list[dict],
    runs: pd.DataFrame,
    folder: Path | str,
    sub_grids: Mapping[str, SubGrid] | None = None,
    config: str = UNKNOWN,
    values: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the figures of write_figures, and those of studies without jobs; return the paths.

    folder: results_dir/figures. values: as for write_all_tables.
    """
    folder, backbones = Path(folder), backbones_of_runs(runs)
    written = write_figures(cells, runs, folder, sub_grids, config)
    results = Results(config, runs=runs, documents=cells)
    for study in cell_studies(values or {}, backbones):
        study.write_figures(results, folder)
        written += [folder / name for name in study.figure_names(backbones)]
    return written
