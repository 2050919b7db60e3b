"""One cell: stream x head x method x memory, all its seeds at once, to accuracy matrices and costs.

The only place that knows all the parts; each of them knows none of the others' insides.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sharc_core.common.determinism import same_bits
from sharc_core.common.device import device_text, resolve_device
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import generator
from sharc_core.features.cache import Features
from sharc_core.features.views import (
    DriftingFeatures,
    DriftingReplicas,
    ReplicaViews,
    TestFeatures,
    replicas_of,
)
from sharc_core.grid.cell import Cell
from sharc_core.heads import Batch, Head, make_head
from sharc_core.learning.cell_memory import make_memory
from sharc_core.learning.documents import FORMAT, joined
from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.methods import METHODS, Method
from sharc_core.provenance.origin import run_origin, versions
from sharc_core.streams.stream import Stream, make_stream

GATHER = 32  # minibatches gathered at a time: fewer, larger copies that still fit the cache
EVALUATE = 4096  # test samples per product


def run_cell(
    features: Features | DriftingFeatures,
    cell: Cell,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train and evaluate a cell on its device; returns the result document (see docs/results.md).

    features: the data set's cached features, with all views that the seeds train on. progress: called
    with a line after every task. Raises UserError when the budget holds nothing, a view is missing, the
    training diverges or there is no such device.
    """
    device = resolve_device(cell.device)
    origin = run_origin(features.manifest, device)
    threads = torch.get_num_threads()
    try:
        # sums over several threads round differently (with a GPU, too, maps are pooled on the CPU)
        torch.set_num_threads(1)
        with same_bits(device):
            return _run_seeds(features, cell, origin, device, progress)
    finally:
        torch.set_num_threads(threads)


def _run_seeds(
    features: Features | DriftingFeatures,
    cell: Cell,
    origin: dict[str, Any],
    device: torch.device | str,
    progress: Callable[[str], None] | None,
) -> dict[str, Any]:
    if cell.has_ragged_tasks and len(cell.seeds) > 1:
        # How many samples fit differs from seed to seed, so they cannot advance together.
        alone = [cell.model_copy(update={"seeds": [seed]}) for seed in cell.seeds]
        return joined(_run(features, one, origin, device, progress) for one in alone)
    return _run(features, cell, origin, device, progress)


def _run(
    features: Features | DriftingFeatures,
    cell: Cell,
    origin: dict[str, Any],
    device: torch.device | str,
    progress: Callable[[str], None] | None,
) -> dict[str, Any]:
    """All the cell's seeds at once."""
    started = time.perf_counter()
    stream = make_stream(features.train_labels, features.test_labels, len(features.classes), cell.stream)
    method_class = METHODS.get(cell.method)
    with torch.no_grad():
        head = make_head(
            cell.head.kind,
            cell.head.hidden,
            len(cell.seeds),
            features.train_pooled.shape[1],
            stream.classes,
            device,
        )
        head.initialise(cell.seeds)
        memory = make_memory(features, stream, cell, device)
        method = method_class(
            head,
            method_class.Settings.model_validate(cell.method_settings),
            cell.training.lr,
            cell.training.replay_batch_size,
            [generator(s, "method") for s in cell.seeds],
        )
        views = _views(features, cell, method)
        untrained = evaluate(views.tests(None, cell.passes), stream, head, device)
        rows = _train(features, stream, cell, method, memory, device, progress)
    matrices = {
        scenario: np.stack([row[scenario].numpy() for row in rows], 1) for scenario in ("task_il", "class_il")
    }
    return {
        "format": FORMAT,
        "cell": cell.settings,
        "config_hash": cell.config_hash,
        "seeds": cell.seeds,
        "classes_per_task": stream.classes_per_task,
        "matrix": {k: _with_null(v) for k, v in matrices.items()},
        "untrained": {k: _with_null(v.numpy()) for k, v in untrained.items()},
        "costs": {
            "episodic_bytes": memory.episodic_bytes(),
            "associative_bytes": memory.associative_bytes(),
            "learner_bytes": [head.bytes_per_replica + method.extra_bytes] * len(cell.seeds),
            "samples_stored": [memory.samples_stored] * len(cell.seeds),
            "recall_mse": memory.recall_mse(),
            "train_seconds": [(time.perf_counter() - started) / len(cell.seeds)] * len(cell.seeds),
        },
        "trainings": [
            {
                "seeds": list(cell.seeds),
                "origin": origin,
                "versions": versions() | {"device": device_text(device)},
            }
        ],
    }


def _train(
    features: Features | DriftingFeatures,
    stream: Stream,
    cell: Cell,
    method: Method,
    memory: EpisodicMemory,
    device: torch.device | str,
    progress: Callable[[str], None] | None,
) -> list[dict[str, torch.Tensor]]:
    """One row of each accuracy matrix per task; NaN rows before JOINT's only evaluation."""
    lessons = stream.joint() if method.joint else stream
    views = _views(features, cell, method)
    rows = []
    for task in range(lessons.tasks):
        if method.uses_memory:
            memory.begin_task()
        method.begin_task(memory)
        for epoch in range(cell.training.epochs):
            order = lessons.order(task, epoch, cell.seeds)
            memory.begin_pass()
            _observe_all(views, order, cell.training.batch_size, method, memory, device)
        if not bool(torch.isfinite(method.evaluated_head.vector).all()):
            raise UserError(
                f"{cell.dataset}/{cell.id}: the training diverged in task {task + 1} (the head is no longer "
                f"finite): lower training.lr ({cell.training.lr}) or check the scale of the features"
            )
        if method.uses_memory:
            memory.store(order, method.head)
        # an average of the head is tested on a backbone of its own, which never saw a training batch
        passes = cell.passes if method.evaluated_head is method.head else None
        rows.append(evaluate(views.tests(task, passes), stream, method.evaluated_head, device))
        if progress:
            done = rows[-1]["class_il"][:, : task + 1].mean().item()
            progress(f"task {task + 1}/{lessons.tasks}: Class-IL accuracy so far {done:.1f} %")
    missing = {k: torch.full_like(v, torch.nan) for k, v in rows[0].items()}
    return [missing] * (stream.tasks - len(rows)) + rows


def _views(
    features: Features | DriftingFeatures, cell: Cell, method: Method
) -> ReplicaViews | DriftingReplicas:
    joint = cell.passes if method.joint else None
    return replicas_of(features, cell.seeds, cell.views, cell.training.batch_size, joint)


def _observe_all(
    views: ReplicaViews | DriftingReplicas,
    order: torch.Tensor,
    batch_size: int,
    method: Method,
    memory: EpisodicMemory,
    device: torch.device | str,
) -> None:
    """Feed one pass over a task, order (R, N_t), to the method in minibatches."""
    for chunk in order.split(GATHER * batch_size, dim=1):
        x = views.pooled(chunk).to(device)
        y = views.features.train_labels[chunk].to(device)
        parts = (values.split(batch_size, 1) for values in (chunk, x, y))
        for index, x_batch, y_batch in zip(*parts, strict=True):
            batch = Batch(x_batch, y_batch)
            if method.uses_memory:
                memory.visit(index, batch, method.head)
            method.observe(batch, memory)
            if method.uses_memory:
                memory.admit()


def evaluate(
    features: TestFeatures, stream: Stream, head: Head, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Accuracy in percent on every task's test images, (R, T) float64, for both scenarios.

    A prediction is right when the true class's logit exceeds every other one's: among all classes
    (Class-IL) or among the task's own (Task-IL). So Task-IL can never be below Class-IL, ties count
    as wrong, and the numbers of the classes do not matter. NaN for a task that is not tested.
    """
    right: dict[str, list[torch.Tensor]] = {"task_il": [], "class_il": []}
    for index, classes in zip(stream.test, stream.classes_per_task, strict=True):
        counts = {scenario: torch.zeros(head.replicas, dtype=torch.int64) for scenario in right}
        own = torch.tensor(sorted(classes), device=device)
        for part in index.split(EVALUATE):
            x = features.tested(part)
            if x is None:
                counts = {scenario: torch.full((head.replicas,), torch.nan) for scenario in right}
                break
            x = x.to(device).expand(head.replicas, -1, -1)
            y = features.test_labels[part].to(device).expand(head.replicas, -1).unsqueeze(2)
            logits = head.logits(x)
            true = logits.gather(2, y)
            logits.scatter_(2, y, -torch.inf)
            counts["class_il"] += (true.squeeze(2) > logits.amax(2)).sum(1).cpu()
            counts["task_il"] += (true.squeeze(2) > logits[..., own].amax(2)).sum(1).cpu()
        for scenario in right:
            right[scenario].append(counts[scenario].double() * 100 / len(index))
    return {scenario: torch.stack(columns, 1) for scenario, columns in right.items()}


def _with_null(array: np.ndarray) -> list:
    """Nested lists with None for NaN, as JSON wants it."""
    nothing: Any = None
    return np.where(np.isnan(array), nothing, array).tolist()
