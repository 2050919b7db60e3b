"""Run the trials of one cell on training data, and test them on held-out training data."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import numpy as np

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import generator
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.grid.tuned import Values, cell_digest, with_values
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.studies.tune.search import run_trials
from sharc_core.studies.tune.settings import COLUMNS, SAME, TuneJob, TuneSettings, column_of

EXCLUDED = -1  # label of a training image that belongs to no task
SCENARIOS = ("class_il", "task_il")


def held_out(labels: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Return (N,) bool: the training images that are kept for validation, the same share of each class.

    labels: (N,) int64. At least one image of a class is held out and at least one is left. Raises UserError
    for a class with one image.
    """
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        index = (labels == label).nonzero().flatten()
        if len(index) < 2:
            raise UserError(f"tune: class {label} has one training image, so none can be held out")
        count = min(max(round(share * len(index)), 1), len(index) - 1)
        order = torch.randperm(len(index), generator=generator(seed, "validation", label))
        mask[index[order[:count]]] = True
    return mask


def with_validation(features: Features, mask: torch.Tensor) -> Features:
    """Return features whose training images are those outside the mask, and whose test images those in it.

    mask: (N,) bool. Maps are not copied: held-out images stay in the arrays and get a label of no task.
    """
    labels = features.train_labels.clone()
    labels[mask] = EXCLUDED
    return replace(
        features,
        train_labels=labels,
        test_maps=features.test_maps[:0],
        test_pooled=features.train_pooled[mask],
        test_labels=features.train_labels[mask],
    )


def run_tuning(features: Features, job: TuneJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Run all trials of a cell and return a row per trial and seed (COLUMNS; see docs/results.md).

    features: of the original test and training images; the test images are not used. A trial that diverges
    or that the cell refuses has a reason instead of accuracies. Raises UserError if all trials fail.
    """
    tune = job.tune
    # trials train on the features of the first view
    cell = job.opened.model_copy(update={"seeds": tune.seeds, "views": 1})
    criterion = criterion_of(cell, tune)
    subset = with_validation(features, held_out(features.train_labels, tune.validation, tune.seed))
    rows: list[dict] = []

    def score(values: Values) -> float:
        number = len(rows) // len(tune.seeds)
        measured = _trial(subset, cell, values, tune)
        rows.extend({"trial": number, "own": number == 0, **row} for row in measured)
        value = fmean(row[column_of(criterion)] for row in measured)
        progress(f"trial {number + 1}/{tune.trials}: {json.dumps(values)}: validation ACC {value:.2f} %")
        return value

    scores = [value for _, value in run_trials(cell, tune, score)]
    best = best_trial(scores)
    if best is None:
        raise UserError(f"tune: every trial of {cell.dataset}/{cell.id} failed: {rows[0]['reason']}")
    names = {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "cell": cell.id,
        "method": cell.method,
        "variant": cell.variant,
        "buffer": cell.buffer,
        "cell_digest": cell_digest(job.opened),
        "criterion": criterion,
    }
    lines = [{**names, **row, "chosen": row["trial"] == best} for row in rows]
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(COLUMNS)


def criterion_of(cell: Cell, tune: TuneSettings) -> str:
    """Return the scenario whose accuracy decides for a cell."""
    return tune.select_by if tune.select_by in cell.scenarios else cell.scenarios[0]


def best_trial(scores: list[float]) -> int | None:
    """Return the number of the first trial with the highest score, None if all failed (NaN)."""
    valid = [number for number, score in enumerate(scores) if not math.isnan(score)]
    return max(valid, key=lambda number: (scores[number], -number), default=None)


def _trial(features: Features, cell: Cell, values: Values, tune: TuneSettings) -> list[dict]:
    """Train and test with some settings; return accuracies, or the reason of a failure, by seed."""
    text = json.dumps(values)
    try:
        document = run_cell(features, with_values(cell, values))
    except UserError as error:
        failed = dict.fromkeys(SCENARIOS, math.nan) | {"reason": str(error)}
        return [{"settings": text, "seed": seed, **failed} for seed in tune.seeds]
    matrices = dict.fromkeys(SCENARIOS, document["matrix"].get(SAME)) | document["matrix"]
    by_scenario = [acc(np.array(matrices[name], dtype=float)).tolist() for name in SCENARIOS]
    measured = zip(tune.seeds, zip(*by_scenario, strict=True), strict=True)
    return [
        {"settings": text, "seed": seed, "reason": None, **dict(zip(SCENARIOS, values, strict=True))}
        for seed, values in measured
    ]
