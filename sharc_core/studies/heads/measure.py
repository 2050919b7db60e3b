"""One job of the study `heads`: cells of one head, trained by the learner."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sharc_core.features.cache import Features
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.studies.heads.settings import COLUMNS, SCENARIO, HeadsJob


def run_heads(features: Features, job: HeadsJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Train the job's cells and return a row per cell and seed (COLUMNS; see docs/results.md).

    Raises UserError when the training diverges.
    """
    cells, rows = job.opened, []
    for number, cell in enumerate(cells, start=1):
        matrix = np.array(run_cell(features, cell)["matrix"][SCENARIO], dtype=float)
        names = ("dataset", "backbone", "method", "variant", "buffer")
        row = {name: getattr(cell, name) for name in names} | {"cell": cell.id}
        row |= {"head": cell.head.kind, "correction": cell.head.bias_correction}
        row["scale"] = cell.head.scale if cell.head.kind == "cosine" else 0.0
        measured = zip(cell.seeds, acc(matrix).tolist(), recency(matrix).tolist(), strict=True)
        rows += [row | {"seed": seed, "acc": value, "recency": bias} for seed, value, bias in measured]
        progress(f"cell {number}/{len(cells)}: {cell.id}, {cell.head.bias_correction}")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def recency(matrix: np.ndarray) -> np.ndarray:
    """Return (R,) the final accuracy on the last task minus the mean of those on all others, in points.

    matrix: accuracies (R, T, T). NaN for a single task.
    """
    last = matrix[:, -1]
    if last.shape[1] < 2:
        return np.full(len(last), np.nan)
    return last[:, -1] - last[:, :-1].mean(1)
