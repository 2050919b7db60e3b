"""One job of the study `task_count`: runs on the first classes of a data set, and what they cost."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sharc_core.common.deferred import torch
from sharc_core.common.mapped import read_rows
from sharc_core.common.phases import OTHER, TESTING, measured
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc, bwt
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import split_classes
from sharc_core.studies.task_count.settings import COLUMNS, CountJob
from sharc_core.studies.time.resources import return_free_memory, spent

TRIM = 20  # tasks after which freed memory goes back to the system
WARM_UP = 2  # tasks of the run before the measured ones, whose costs are not counted


def run_counts(features: Features, job: CountJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Return a row per cell, seed and scenario (COLUMNS; see docs/results.md).

    Every seed runs alone, so that seconds and memory are those of one run. Each cell first runs on two tasks,
    so that they do not include what a process loads once.
    """
    cells, rows = job.opened, []
    for seed in dict.fromkeys(seed for cell in cells for seed in cell.seeds):
        runs = [cell.model_copy(update={"seeds": [seed]}) for cell in cells if seed in cell.seeds]
        part, stream = beginning(features, runs[0].stream.of_run(seed), job.classes)
        for number, run in enumerate(runs, start=1):
            run = run.model_copy(update={"stream": stream})
            _warm_up(part, run)
            rows += _rows(part, run)
            progress(f"{stream.count} tasks, seed {seed}, cell {number}/{len(runs)}: {run.id}")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def beginning(features: Features, stream: StreamConfig, count: int) -> tuple[Features, StreamConfig]:
    """Return the first view of the first `count` classes in a stream's class order, and their stream.

    The class order is that of all classes, so a stream begins like every longer one. Labels are numbered
    from 0 in the order of the data set. The stream has as many tasks, and lists the class order if it is not
    the order of the labels.
    """
    (order,) = split_classes(features.classes, stream.model_copy(update={"tasks": 1}))
    chosen = sorted(order[:count])
    numbers = torch.full((len(features.classes),), -1)
    numbers[chosen] = torch.arange(count)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        labels = numbers[getattr(features, f"{split}_labels")]
        index = (labels >= 0).nonzero().flatten()
        # a slice of a mapped file is not read; prepared images are usually in the order of their labels
        is_prefix = len(index) == 0 or int(index[-1]) == len(index) - 1
        arrays[f"{split}_labels"] = labels[index]
        for kind in ("maps", "pooled"):
            values = getattr(features, f"{split}_{kind}")
            arrays[f"{split}_{kind}"] = values[: len(index)] if is_prefix else read_rows(values, index)
    names = [features.classes[label] for label in chosen]
    listed = [features.classes[label] for label in order[:count]]
    part = replace(features, **arrays, classes=names, further_views={})
    fields = {"class_order": None if listed == names else listed, "class_order_seed": None}
    return part, stream.model_copy(update=fields)


def _warm_up(features: Features, cell: Cell) -> None:
    """Run a cell on the first two tasks with as many slots per class."""
    tasks = cell.stream.count
    part, stream = beginning(features, cell.stream, WARM_UP * len(features.classes) // tasks)
    buffer = None if cell.buffer is None else max(1, cell.buffer * WARM_UP // tasks)
    stream = stream.model_copy(update={"tasks": WARM_UP})
    run_cell(part, cell.model_copy(update={"stream": stream, "buffer": buffer}))


class _Trim:
    """Return freed memory to the system every TRIM tasks; `run_cell` calls it after each.

    Tests of thousands of classes free blocks of many megabytes, between small ones that stay. The C library
    keeps such holes, so a run of 1,000 tasks that uses 0.2 GB grew by 0.3 to 1.6 GB, differently each time.
    """

    def __init__(self) -> None:
        self.tasks = 0

    def __call__(self, line: str) -> None:
        self.tasks += 1
        if self.tasks % TRIM == 0:
            return_free_memory()


def _rows(features: Features, cell: Cell) -> list[dict]:
    """Run a cell with one seed and return its rows."""
    start = time.perf_counter()
    with spent() as resources, measured(cpu=True) as seconds:
        document = run_cell(features, cell, _Trim())
    run_seconds = time.perf_counter() - start
    costs = document["costs"]
    kinds = ("episodic_bytes", "associative_bytes", "learner_bytes")
    tasks, classes = cell.stream.count, len(features.classes)
    row = {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "tasks": tasks,
        "classes": classes,
        "method": cell.method,
        "variant": cell.variant,
        "associative_memory": cell.associative_memory,
        "theta": cell.theta,
        "forget_every": cell.forget_every,
        "buffer": cell.buffer,
        "seed": cell.seeds[0],
        "test_images": len(features.test_labels),
        "total_bytes": sum(costs[kind][0] for kind in kinds),
        "peak_bytes": costs["peak_bytes"][0],
        "samples_stored": costs["samples_stored"][0],
        "train_seconds": sum(s for name, s in seconds.items() if name not in (TESTING, OTHER)),
        "test_seconds": seconds[TESTING],
        "other_seconds": seconds[OTHER],
        "run_seconds": run_seconds,
        "peak_memory": resources.peak_memory,
        "memory_growth": resources.memory_growth,
    }
    images = np.bincount(features.test_labels.numpy(), minlength=classes)
    of_task = np.array([images[own].sum() for own in split_classes(features.classes, cell.stream)])
    own = {"task_il": classes / tasks, "class_il": classes}
    rows = []
    for scenario in cell.scenarios:
        matrix = np.array(document["matrix"][scenario], dtype=float)
        accuracies = {"acc": float(acc(matrix)[0]), "bwt": float(bwt(matrix)[0])}
        correct = round(float((matrix[0, -1] * of_task).sum()) / 100)
        counts = {"chance": 100 / own[scenario], "correct": correct}
        rows.append(row | accuracies | counts | {"scenario": scenario})
    return rows
