"""One job of the study `fair_tuning`: tune cells on validation data, then test both kinds of settings."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd

from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.grid.tuned import with_values
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.studies.fair_tuning.settings import COLUMNS, PUBLISHED, TUNED, FairJob
from sharc_core.studies.tune.measure import best_trial, run_tuning
from sharc_core.studies.tune.settings import TuneJob, column_of


def run_fair(features: Features, job: FairJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Return a row per cell, scenario, source of the settings and seed (COLUMNS; see docs/results.md).

    The trials are those of the study `tune`, which sees no test image. The chosen settings are then trained
    on all training images with the grid's seeds. Raises UserError if all trials of a cell fail or one of the
    tested runs diverges.
    """
    rows: list[dict] = []
    for cell in job.opened:
        trials = run_tuning(features, TuneJob(cell=cell.model_dump(mode="json"), tune=job.tune), progress)
        rows += _tested(features, cell.model_copy(update={"views": 1}), trials)
        progress(f"{cell.id}: published and tuned settings tested")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def chosen_trials(trials: pd.DataFrame, scenario: str) -> dict[str, pd.Series]:
    """Return the published and the tuned trial of a scenario, by source.

    trials: rows of run_tuning. A trial's validation ACC is the mean over its seeds. A result has `settings`,
    `validation_acc`, `trials` and `failed`.
    """
    column = column_of(scenario)
    groups = trials.groupby("trial", sort=True)
    means = groups[column].mean().where(groups[column].count() == groups.size())
    best = best_trial(means.tolist())
    assert best is not None  # run_tuning raises an error where all trials fail
    settings = groups["settings"].first()
    counts = {"trials": len(means), "failed": int(means.isna().sum())}
    return {
        source: pd.Series({"settings": settings[number], "validation_acc": means[number]} | counts)
        for source, number in ((PUBLISHED, 0), (TUNED, best))
    }


def _tested(features: Features, cell: Cell, trials: pd.DataFrame) -> list[dict]:
    """Return the rows of a cell. Settings that two scenarios chose are trained once."""
    names = ("dataset", "backbone", "method", "variant", "buffer")
    place = {name: getattr(cell, name) for name in names} | {"cell": cell.id}
    documents: dict[str, dict] = {}
    rows = []
    for scenario in cell.scenarios:
        for source, trial in chosen_trials(trials, scenario).items():
            text = trial["settings"]
            if text not in documents:
                documents[text] = run_cell(features, with_values(cell, json.loads(text)))
            accs = acc(np.array(documents[text]["matrix"][scenario], dtype=float))
            rows += [
                {**place, "scenario": scenario, "source": source, **trial, "seed": seed, "acc": value}
                for seed, value in zip(cell.seeds, accs.tolist(), strict=True)
            ]
    return rows
