"""The registered studies that take part in a grid, with their settings."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sharc_core.grid.cell import Cell
from sharc_core.grid.models import Grid
from sharc_core.studies.base import STUDIES, Backbones, Study

if TYPE_CHECKING:
    import pandas as pd


def study_of(grid: Grid, name: str) -> Study:
    """Return a registered study with its settings in the grid."""
    return STUDIES.get(name)(grid.study_settings(name))


def job_studies(grid: Grid) -> list[Study]:
    """Return all studies with jobs: each is a target, whether or not the grid file has its block."""
    return [study_of(grid, name) for name in STUDIES.names() if STUDIES.get(name).has_jobs()]


def configured_jobs(grid: Grid) -> dict[str, int]:
    """Return how many jobs each study has that the grid file configures, by name.

    Raises UserError for settings that do not fit the grid.
    """
    studies = [study for study in job_studies(grid) if study.name in grid.study_blocks]
    return {study.name: len(study.chosen_jobs(grid)) for study in studies}


def trained_cells(grid: Grid) -> dict[str, list[Cell]]:
    """Return the cells that jobs of the studies in the grid file train, by study, of those that state them.

    Raises UserError for settings that do not fit the grid.
    """
    studies = [study for study in job_studies(grid) if study.name in grid.study_blocks]
    return {study.name: study.trained(grid) for study in studies}


def cell_studies(values: Mapping[str, Any], backbones: Backbones) -> list[Study]:
    """Return the studies without jobs that are made from a grid's cells.

    values: the grid's keys and values, of which the blocks of studies are read.
    """
    studies = []
    for name in STUDIES.names():
        kind = STUDIES.get(name)
        if not kind.has_jobs() and (name in values or kind.applies(backbones)):
            studies.append(kind(kind.Settings.model_validate(values.get(name, {}))))
    return studies


def backbones_of_cells(cells: Iterable[Cell]) -> Backbones:
    """Return, by scenario, the names of the backbones that cells are reported with."""
    backbones: dict[str, set[str]] = {}
    for cell in cells:
        for scenario in cell.scenarios:
            backbones.setdefault(scenario, set()).add(cell.backbone)
    return backbones


def backbones_of_runs(runs: "pd.DataFrame") -> Backbones:
    """Return the same of the rows of runs.csv."""
    return {scenario: set(rows["backbone"]) for scenario, rows in runs.groupby("scenario")}
