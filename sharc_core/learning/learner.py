"""Train and evaluate one cell: stream, head, method and memory, all seeds at once.

This is the only module that knows all the parts; none of them depends on the internals of another.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sharc_core.common.deferred import torch
from sharc_core.common.determinism import same_bits
from sharc_core.common.device import device_text, resolve_device
from sharc_core.common.errors import UserError
from sharc_core.common.phases import STEPS, STORING, phase
from sharc_core.features.cache import Features
from sharc_core.features.views import (
    DriftingFeatures,
    DriftingReplicas,
    ReplicaViews,
    replicas_of,
)
from sharc_core.grid.cell import Cell, Training
from sharc_core.heads import Batch, Head, make_head
from sharc_core.learning.bias_correction import align, clip, clipped_heads
from sharc_core.learning.cell_memory import make_memory, make_method
from sharc_core.learning.costs import Costs
from sharc_core.learning.documents import FORMAT, joined
from sharc_core.learning.evaluation import evaluate
from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.methods import METHODS, Method, Task
from sharc_core.provenance.origin import run_origin, versions
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import Stream, streamed

GATHER = 32  # minibatches gathered at a time: fewer, larger copies that still fit the cache


def run_cell(
    features: Features | DriftingFeatures,
    cell: Cell,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train and evaluate a cell on its device; return the result document (see docs/results.md).

    features: the data set's cached features, with all views that the seeds train on. progress: called
    with a line after every task. Raises UserError when the budget holds no sample, a view or the device is
    missing, or the training diverges.
    """
    device = resolve_device(cell.device)
    origin = run_origin(features.manifest, device)
    threads = torch.get_num_threads()
    try:
        # sums over several threads round differently (maps are pooled on the CPU even with a GPU)
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
    is_alone = cell.has_ragged_tasks or cell.stream.is_per_run
    if (is_alone or not METHODS.get(cell.method).advances_together) and len(cell.seeds) > 1:
        # The number of samples that fit or the stream differs between seeds, so they cannot advance together,
        # or the method takes too much memory for it.
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
    """Train all seeds of the cell at once."""
    costs = Costs(cell.passes)
    features, stream = streamed(features, cell.stream, cell.seeds[0])
    with torch.no_grad():
        head = make_head(
            cell.head.kind,
            cell.head.hidden,
            len(cell.seeds),
            features.train_pooled.shape[1],
            stream.classes,
            device,
            cell.head.scale,
        )
        head.initialise(cell.seeds)
        memory = make_memory(features, stream, cell, device)
        method = make_method(cell, head, cell.seeds)
        clipped = clipped_heads(cell.head, method)
        views = _views(features, cell, method)
        try:
            with method.flops.paused():
                untrained = evaluate(views.tests(None, cell.passes), stream, method, device)
        except FloatingPointError as error:
            raise UserError(
                f"{cell.dataset}/{cell.id}: {error} before any training: check the features"
            ) from None
        rows = _train(features, stream, cell, method, memory, clipped, costs, device, progress)
    scenarios = scenarios_of(cell.stream)
    matrices = {name: np.stack([row[by].numpy() for row in rows], 1) for name, by in scenarios.items()}
    classes_per_task = stream.classes_per_task
    return {
        "format": FORMAT,
        "cell": cell.settings,
        "config_hash": cell.config_hash,
        "seeds": cell.seeds,
        "classes_per_task": [classes_per_task] if cell.stream.is_per_run else classes_per_task,
        "matrix": {k: _with_null(v) for k, v in matrices.items()},
        "untrained": {name: _with_null(untrained[by].numpy()) for name, by in scenarios.items()},
        "costs": costs.document(method, memory),
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
    clipped: Sequence[Head],
    costs: Costs,
    device: torch.device | str,
    progress: Callable[[str], None] | None,
) -> list[dict[str, torch.Tensor]]:
    """Return a row of both accuracy matrices per task; JOINT is evaluated once, its other rows are NaN."""
    learned = stream.joint() if method.joint else stream
    views = _views(features, cell, method)
    rows = []
    for number in range(learned.tasks):
        task = _task(learned, number)
        if method.uses_memory:
            with phase(STORING):
                memory.begin_task()
        with phase(STEPS):
            method.begin_task(task, memory)
        for epoch in range(cell.training.epochs):
            order = learned.order(number, epoch, cell.seeds)
            memory.begin_pass()
            costs.visited(order.shape[1])
            _observe_all(views, order, cell.training, method, memory, clipped, device)
        with phase(STEPS):
            align(cell.head, method, learned, number)
        if method.reviews_tasks:
            costs.reviewed(order.shape[1])
            with phase(STEPS):
                for _, batch in _minibatches(views, order, cell.training.batch_size, device):
                    method.review(batch)
        with phase(STEPS):
            method.end_task(task, memory)
        if method.trains_head and not bool(torch.isfinite(method.head.vector).all()):
            raise UserError(
                f"{cell.dataset}/{cell.id}: the training diverged in task {number + 1} (the head is no "
                f"longer finite): lower training.lr ({cell.training.lr}) or check the scale of the features"
            )
        if method.uses_memory:
            with phase(STORING):
                memory.store(order, method.head)
            with phase(STEPS):
                method.filled(memory)
        costs.end_of_task(method, memory)
        # a copy of the network is tested with a backbone of its own, which saw no training batch
        passes = None if method.predicts_with_copy else cell.passes
        try:
            with method.flops.paused():
                rows.append(evaluate(views.tests(number, passes), stream, method, device))
        except FloatingPointError as error:
            raise UserError(
                f"{cell.dataset}/{cell.id}: the training diverged in task {number + 1} ({error}): check the "
                "settings of the method and the scale of the features"
            ) from None
        if progress:
            mean = rows[-1]["class_il"][:, : number + 1].mean().item()
            scenario = "Domain-IL" if cell.stream.labels == "same" else "Class-IL"
            progress(f"task {number + 1}/{learned.tasks}: {scenario} accuracy so far {mean:.1f} %")
    missing = {k: torch.full_like(v, torch.nan) for k, v in rows[0].items()}
    return [missing] * (stream.tasks - len(rows)) + rows


def _task(stream: Stream, number: int) -> Task:
    """Return what a method may know about a task of a stream."""
    own, seen = stream.classes_trained(number), stream.classes_seen(number)
    return Task(number, stream.tasks, tuple(own), tuple(seen), stream.classes)


def scenarios_of(stream: StreamConfig) -> dict[str, str]:
    """Return the scenarios that a stream is reported in, and which accuracy of `evaluate` each of them is.

    In Domain-IL every task has all classes, so that its Class-IL and Task-IL accuracies are the same.
    """
    if stream.labels == "same":
        return {"domain_il": "class_il"}
    return {"task_il": "task_il", "class_il": "class_il"}


def _views(
    features: Features | DriftingFeatures, cell: Cell, method: Method
) -> ReplicaViews | DriftingReplicas:
    joint = cell.passes if method.joint else None
    return replicas_of(features, cell.seeds, cell.views, cell.training.batch_size, joint)


def _minibatches(
    views: ReplicaViews | DriftingReplicas,
    order: torch.Tensor,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[tuple[torch.Tensor, Batch]]:
    """Yield the minibatches of one pass over a task, order (R, N_t), with their training indices (R, B)."""
    for chunk in order.split(GATHER * batch_size, dim=1):
        x = views.pooled(chunk).to(device)
        y = views.features.train_labels[chunk].to(device)
        parts = (values.split(batch_size, 1) for values in (chunk, x, y))
        for index, x_batch, y_batch in zip(*parts, strict=True):
            yield index, Batch(x_batch, y_batch)


@phase(STEPS)
def _observe_all(
    views: ReplicaViews | DriftingReplicas,
    order: torch.Tensor,
    training: Training,
    method: Method,
    memory: EpisodicMemory,
    clipped: Sequence[Head],
    device: torch.device | str,
) -> None:
    """Feed one pass over a task, order (R, N_t), to the method in minibatches."""
    for number, (index, batch) in enumerate(_minibatches(views, order, training.batch_size, device)):
        if method.uses_memory:
            memory.visit(index, batch, method.head)
        for _ in range(training.steps_of(number) if method.repeats_steps else 1):
            method.observe(batch, memory)
            clip(clipped)
        if method.uses_memory:
            with phase(STORING):
                memory.admit()


def _with_null(array: np.ndarray) -> list:
    """Return nested lists with None for NaN, which JSON cannot hold."""
    nothing: Any = None
    return np.where(np.isnan(array), nothing, array).tolist()
