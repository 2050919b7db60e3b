"""The user's features as a feature folder in the cache's format, so that cells need not know of them."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sharc_core.backbones.own_features import NAME
from sharc_core.common.deferred import torch
from sharc_core.common.determinism import same_bits
from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_folder, digest, write_json
from sharc_core.common.integrity import stamp
from sharc_core.common.pooling import pool
from sharc_core.datasets.feature_source import FeatureSource, open_labels
from sharc_core.features.arrays import ArrayWriter
from sharc_core.features.cache import (
    BATCH,
    SECONDS_BETWEEN_LINES,
    SPLITS,
    cache_bytes,
    check_space,
)


def write_features(
    source: FeatureSource, prepared: Path, out: Path, progress: Callable[[str], None] | None = None
) -> None:
    """Write the feature folder `out` of a source atomically. prepared: its prepared folder, with the labels.

    Memory does not grow with the data set. In the manifest the hash of the data stands in place of that of a
    backbone's weights. Raises UserError when the disk is too small or the files are not those that were
    prepared.
    """
    opened = open_labels(prepared)
    shape, began = source.map_shape(), time.perf_counter()
    counts = {split: len(labels) for split, labels in opened.labels.items()}
    total = sum(counts.values())
    check_space(Path(out), cache_bytes(total, shape), f"features {out}")
    files: dict[str, dict] = {}
    reported, done = began, 0
    with atomic_folder(out) as folder, same_bits("cpu"):
        for split in SPLITS:
            rows = (counts[split],)
            maps = ArrayWriter(folder / f"{split}_maps.npy", rows + shape, np.float16)
            pooled = ArrayWriter(folder / f"{split}_pooled.npy", rows + shape[:1], np.float32)
            labels = ArrayWriter(folder / f"{split}_labels.npy", rows, np.int64)
            written = 0
            # blocks of as many samples as the cache has, because pooled vectors must have the same bits
            for block in source.maps(split, BATCH):
                values = torch.from_numpy(np.ascontiguousarray(block))
                maps.append(values)
                pooled.append(pool(values))
                written += len(block)
                done, now = done + len(block), time.perf_counter()
                if progress and now - reported > SECONDS_BETWEEN_LINES:
                    reported = now
                    progress(f"{split}: {done:,}/{total:,} samples")
            labels.append(torch.from_numpy(opened.labels[split]))
            files |= {writer.path.name: writer.finish() for writer in (maps, pooled, labels)}
            if written != counts[split]:
                raise UserError(
                    f"the files of {prepared.name} were changed after they were checked: run again"
                )
        data = digest(opened.manifest, 64)
        manifest = {
            "dataset": data,
            "backbone": {"name": NAME, "sha256": data},
            "view": 0,
            "device": "cpu",
            "shape": list(shape),
            "counts": counts,
            "classes": list(opened.manifest["classes"]),
            "files": files,
        }
        stamp(folder, list(files))
        write_json(folder / "manifest.json", manifest)
    if progress:
        seconds = time.perf_counter() - began
        progress(f"{total:,} samples in {seconds:.1f} s")
