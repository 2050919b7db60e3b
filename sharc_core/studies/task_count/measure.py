"""One job of the study `task_count`: runs on the first classes of a data set, and what they cost."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from sharc_core.common.deferred import torch
from sharc_core.common.phases import OTHER, TESTING, measured
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc, bwt
from sharc_core.studies.task_count.settings import COLUMNS, CountJob
from sharc_core.studies.time.resources import spent


def run_counts(features: Features, job: CountJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Return a row per cell, seed and scenario (COLUMNS; see docs/results.md).

    Every seed runs alone, so that seconds and memory are those of one run.
    """
    part, cells, rows = first_classes(features, job.classes), job.opened, []
    for number, cell in enumerate(cells, start=1):
        for seed in cell.seeds:
            rows += _rows(part, cell.model_copy(update={"seeds": [seed]}), job.classes)
        progress(f"{cell.stream.count} tasks, cell {number}/{len(cells)}: {cell.id}")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def first_classes(features: Features, count: int) -> Features:
    """Return the features of the classes with labels below `count`, of the first view."""
    arrays = {}
    for split in ("train", "test"):
        labels = getattr(features, f"{split}_labels")
        chosen = (labels < count).nonzero().flatten()
        # a slice of a mapped file is not read; prepared images are usually in the order of their labels
        is_prefix = len(chosen) == 0 or int(chosen[-1]) == len(chosen) - 1
        rows: slice | torch.Tensor = slice(len(chosen)) if is_prefix else chosen
        for kind in ("maps", "pooled", "labels"):
            arrays[f"{split}_{kind}"] = getattr(features, f"{split}_{kind}")[rows]
    return replace(features, **arrays, classes=list(features.classes[:count]), further_views={})


def _rows(features: Features, cell: Cell, classes: int) -> list[dict]:
    """Run a cell with one seed and return its rows."""
    with spent() as resources, measured() as seconds:
        document = run_cell(features, cell)
    costs = document["costs"]
    kinds = ("episodic_bytes", "associative_bytes", "learner_bytes")
    row = {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "tasks": cell.stream.count,
        "classes": classes,
        "method": cell.method,
        "variant": cell.variant,
        "associative_memory": cell.associative_memory,
        "theta": cell.theta,
        "forget_every": cell.forget_every,
        "buffer": cell.buffer,
        "seed": cell.seeds[0],
        "total_bytes": sum(costs[kind][0] for kind in kinds),
        "peak_bytes": costs["peak_bytes"][0],
        "samples_stored": costs["samples_stored"][0],
        "train_seconds": sum(s for name, s in seconds.items() if name not in (TESTING, OTHER)),
        "test_seconds": seconds[TESTING],
        "other_seconds": seconds[OTHER],
        "peak_memory": resources.peak_memory,
        "memory_growth": resources.memory_growth,
    }
    own = {"task_il": classes / cell.stream.count, "class_il": classes}
    rows = []
    for scenario in cell.scenarios:
        matrix = np.array(document["matrix"][scenario], dtype=float)
        accuracies = {"acc": float(acc(matrix)[0]), "bwt": float(bwt(matrix)[0])}
        rows.append(row | accuracies | {"scenario": scenario, "chance": 100 / own[scenario]})
    return rows
