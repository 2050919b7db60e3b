"""A cell's episodic memory: its budget, checked against the size of its maps, and the memory itself."""

from dataclasses import replace
from functools import partial

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.deferred import torch
from sharc_core.common.seeds import derived_seed, generator
from sharc_core.features.cache import Features
from sharc_core.features.images import image_shape_of
from sharc_core.features.views import DriftingFeatures
from sharc_core.grid.cell import Cell
from sharc_core.heads import Head, make_head
from sharc_core.memory.budget import Budget
from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.memory.options import SharcSettings, Storing
from sharc_core.memory.reservoir import ReservoirMemory
from sharc_core.memory.task_memory import TaskMemory
from sharc_core.methods import METHODS, Method
from sharc_core.saliency.channel_masks import fewest_channels, kept_channels
from sharc_core.selection import SELECTIONS
from sharc_core.streams.stream import Stream


def budget_of(
    cell: Cell,
    shape: tuple[int, int, int],
    classes: int,
    image_shape: tuple[int, int, int] | None = None,
) -> Budget | None:
    """Return a cell's budget for maps of shape (K, h, w); None if it has no memory.

    image_shape: (H, W, 3) of the prepared images, for representations that store images. Needs no features,
    so it can be checked before anything is computed. Raises UserError if a task's share holds no sample, or
    if the cell's associative memory cannot hold maps of that size.
    """
    if cell.buffer is None:
        return None
    assert cell.budget_unit is not None
    budget = Budget(
        cell.budget_unit,
        cell.buffer,
        cell.stream.count,
        shape,
        logits=classes if METHODS.get(cell.method).needs_logits else 0,
        representation=_storing(cell, image_shape).representation(shape),
        counted=cell.has_ragged_channels,
        dense=cell.read not in (None, "per_task"),
        split=tuple(cell.budget_split) if isinstance(cell.budget_split, list) else None,
        weights=cell.stream.weights,
        carry=cell.budget_split == "carry",
        learner_bytes=_learner_bytes(cell, shape[0], classes) if cell.budget_unit == "total_bytes" else 0,
    )
    keep = shape[0]
    if cell.variant == "sharc":
        kind = ASSOCIATIVE_MEMORIES.get(cell.memory_kind)
        settings = kind.Settings.model_validate(cell.associative_settings)
        planned = partial(kind.planned_bytes, settings, shape, classes)
        planned(0)  # raises for maps that such a memory cannot hold
        if cell.count_associative_memory:
            budget = replace(budget, am_bytes=planned)
        keep_by = fewest_channels if cell.importance == "positive" else kept_channels
        keep = 1 if cell.theta is None else keep_by(shape[0], cell.theta)
    # a file takes a byte at least; how many more each of them takes, the features of encoded images know
    budget.check(keep if budget.codec is None else 1)
    return budget


def _learner_bytes(cell: Cell, features: int, classes: int) -> int:
    """Return the bytes that head and method hold from the start on, which is all that they ever hold."""
    head = make_head(cell.head.kind, cell.head.hidden, 1, features, classes)
    return make_method(cell, head, [0]).learner_bytes


def make_method(cell: Cell, head: Head, seeds: list[int]) -> Method:
    """Return the cell's method, which trains a head of one replica per seed."""
    kind = METHODS.get(cell.method)
    return kind(
        head,
        kind.Settings.model_validate(cell.method_settings),
        cell.training.lr,
        cell.training.replay_batch_size,
        [generator(s, "method") for s in seeds],
    )


def make_memory(
    features: Features | DriftingFeatures, stream: Stream, cell: Cell, device: torch.device | str = "cpu"
) -> EpisodicMemory:
    """Return the cell's episodic memory; for a cell without a buffer, one that stores nothing.

    Raises UserError if the budget does not hold a sample of each task.
    """
    channels, height, width = features.train_maps.shape[1:]
    shape = channels, height, width
    images = image_shape_of(features.manifest)
    budget, storing = budget_of(cell, shape, stream.classes, images), _storing(cell, images)
    if budget is None:
        return EpisodicMemory(features, cell.seeds, None, storing, device)
    sharc = None
    if cell.variant == "sharc":
        sharc = _sharc_settings(cell, shape, stream.classes, device)
    kind = TaskMemory if SELECTIONS.get(cell.selection).has_tasks else ReservoirMemory
    memory = kind(features, cell.seeds, budget, sharc, storing, device)
    memory.encoder.learn(stream.train[0])
    return memory


def _storing(cell: Cell, image_shape: tuple[int, int, int] | None) -> Storing:
    return Storing(
        cell.storage,
        cell.selection,
        METHODS.get(cell.method).needs_logits,
        cell.method_settings.get("logits_at", "task_end"),
        cell.training.batch_size,
        cell.views,
        cell.storage_settings,
        image_shape,
    )


def _sharc_settings(
    cell: Cell, shape: tuple[int, int, int], classes: int, device: torch.device | str
) -> SharcSettings:
    """Return how SHARC stores and completes, with a new associative memory for each seed."""
    kind = ASSOCIATIVE_MEMORIES.get(cell.memory_kind)
    settings = kind.Settings.model_validate(cell.associative_settings)
    return SharcSettings(
        [kind(settings, shape, classes, derived_seed(s, "associative"), device) for s in cell.seeds],
        theta=cell.theta,
        mass=cell.mass,
        saliency=cell.saliency or "gradient",
        importance=cell.importance or "absolute",
        saliency_at=cell.saliency_at or "task_end",
        read=cell.read or "per_task",
        complete=cell.complete or "all",
        forget_every=cell.forget_every,
        forget_unit=cell.forget_unit or "task",
        forget_beta=cell.forget_beta or 0.0,
    )
