"""One job of the study `memory_bound`: real maps at every theta, their bounds and compressed bytes."""

import importlib
import lzma
import math
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.common.deferred import pandas as pd
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import generator
from sharc_core.features.cache import Features
from sharc_core.heads import Head
from sharc_core.representations import REPRESENTATIONS
from sharc_core.representations.sparse_maps import SparseMaps
from sharc_core.saliency.channel_masks import kept_channels
from sharc_core.streams.stream import streamed
from sharc_core.studies.memory_bound.bounds import break_even, content
from sharc_core.studies.memory_bound.settings import (
    ALONE,
    COLUMNS,
    COMPRESSED,
    COMPRESSORS,
    MAPS,
    MEMORY,
    MemoryBoundJob,
)
from sharc_core.studies.recall.measure import joint_head, saliency_mask

Compress = Callable[[bytes], bytes]
MANY = 1000  # maps over which the growth of a state is averaged


def compressors() -> dict[str, Compress]:
    """Return the lossless compressors of this Python's standard library, at high levels. zstd: from 3.14."""
    found: dict[str, Compress] = {"zlib": partial(zlib.compress, level=9), "lzma": _lzma}
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:
        return found
    return found | {"zstd": partial(zstd.compress, level=19)}


def _lzma(data: bytes) -> bytes:
    """Compress without a container, whose header would weigh on single maps, and with a small dictionary."""
    own = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": min(max(4096, len(data)), 1 << 26)}
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=[own])


def run_bounds(
    features: Features, job: MemoryBoundJob, progress: Callable[[str], None] | None = None
) -> pd.DataFrame:
    """Return a row per storage and theta, and one per associative memory and theta (see docs/results.md).

    Runs on one thread, so that equal seeds give equal bits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            rows = _maps_rows(features, job, progress) + _memory_rows(features, job)
    finally:
        torch.set_num_threads(threads)
    common = {"dataset": job.dataset, "backbone": job.backbone}
    return pd.DataFrame([common | row for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


def _maps_rows(
    features: Features, job: MemoryBoundJob, progress: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    study, rows = job.study, []
    features, stream = streamed(features, job.stream, study.seed)
    head = joint_head(features, stream, job.training, study.seed)
    order = torch.randperm(len(features.train_labels), generator=generator(study.seed, "bound", "maps"))
    index = order[: study.maps]
    for storage in study.storages:
        for theta in study.thetas:
            rows.append(_stored(features, index, head, storage, theta))
        if progress:
            progress(f"{storage}: {len(index)} maps at {len(study.thetas)} values of theta")
    return rows


def _stored(
    features: Features, index: torch.Tensor, head: Head, storage: str, theta: float
) -> dict[str, Any]:
    maps = features.train_maps[index]
    channels, height, width = maps.shape[1:]
    representation = REPRESENTATIONS.get(storage)((channels, height, width))
    stored = representation.encode(maps, saliency_mask(features, index, head, theta))
    found = content(representation, stored)
    row = {
        "kind": MAPS,
        "storage": storage,
        "theta": theta,
        **_shape(features),
        "keep": found.keep,
        "maps": len(index),
        "stored_bytes": stored.nbytes / len(index),
        "any_bytes": found.any_bits / 8,
        "zeros_bytes": found.zeros_bits / 8,
        "entropy_bytes": found.entropy_bits / 8,
        "zeros": found.zeros,
        "value_entropy": found.value_entropy,
    }
    return row | compressed(stored)


def compressed(stored: SparseMaps) -> dict[str, float]:
    """Return the bytes per map that every compressor makes of stored maps, together and alone; NaN: none.

    Values, scales and channel numbers are compressed as they are stored. Alone, a map can be replayed without
    the others.
    """
    result = dict.fromkeys([*COMPRESSED, *ALONE], math.nan)
    for name, compress in compressors().items():
        result[COMPRESSED[COMPRESSORS.index(name)]] = len(compress(_bytes(stored))) / stored.samples
        alone = sum(len(compress(_bytes(stored, n))) for n in range(stored.samples))
        result[ALONE[COMPRESSORS.index(name)]] = alone / stored.samples
    return result


def _bytes(stored: SparseMaps, number: int | None = None) -> bytes:
    """Return the bytes of all stored maps, or of one of them."""
    parts = []
    for tensor in (stored.values, stored.scales, stored.channels):
        if tensor is not None:
            own = tensor.unflatten(0, (stored.samples, -1))
            parts.append((own if number is None else own[number]).contiguous().numpy().tobytes())
    return b"".join(parts)


def _memory_rows(features: Features, job: MemoryBoundJob) -> list[dict[str, Any]]:
    storage, rows = job.study.storages[0], []
    shape = _shape(features)
    planned = REPRESENTATIONS.get(storage)(tuple(shape.values())).planned_bytes
    for name, values in job.memories.items():
        state, reason = _state_of(values, tuple(shape.values()), len(features.classes))
        for theta in job.study.thetas:
            keep = kept_channels(shape["channels"], theta)
            saved = planned(shape["channels"]) - planned(keep)
            row = {"kind": MEMORY, "storage": storage, "theta": theta, **shape, "keep": keep, "maps": 0}
            row |= {"memory": name, "saved_bytes": saved, "reason": reason}
            if state is not None:
                row |= {
                    "state_bytes": state(0),
                    "state_bytes_per_map": (state(MANY) - state(0)) / MANY,
                    "break_even": break_even(saved, state) if keep < shape["channels"] else None,
                }
            rows.append(row)
    return rows


def _state_of(
    values: dict[str, Any], shape: tuple[int, ...], classes: int
) -> tuple[Callable[[int], int] | None, str | None]:
    """Return the bytes of a memory's state as a function of the maps, or None and why it refuses the maps."""
    values = dict(values)
    kind = ASSOCIATIVE_MEMORIES.get(values.pop("kind"))
    state = partial(kind.planned_bytes, kind.Settings.model_validate(values), shape, classes)
    try:
        state(0)
    except UserError as error:
        return None, str(error)
    return state, None


def _shape(features: Features) -> dict[str, int]:
    return dict(zip(("channels", "height", "width"), features.train_maps.shape[1:], strict=True))
