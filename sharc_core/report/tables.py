"""All tables of a grid, for the rule that makes them and for `verify`, which makes them again."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sharc_core.report.scorecard import write_scorecard
from sharc_core.results.tables import write_study_tables, write_tables
from sharc_core.studies.batch_norm import write_batch_norm


def write_all_tables(
    runs: pd.DataFrame, published: pd.DataFrame, folder: Path | str, studies: Sequence[str], config: str
) -> list[Path]:
    """Write a grid's tables, its scorecard and its studies' tables; returns the paths.

    batch_norm.{md,csv} are written where a network was run under frozen and another batch norm.
    runs: results.runs_table. published: published.load_published. config: Grid.config_hash.
    """
    return [
        *write_tables(runs, published, folder, config),
        *write_scorecard(runs, published, folder, config),
        *write_study_tables(runs, published, folder, studies, config),
        *write_batch_norm(runs, published, folder, config),
    ]
