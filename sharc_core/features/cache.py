"""The feature cache: maps and pooled vectors, written once per (data set, backbone, view), read in place."""

import hashlib
import math
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharc_core.backbones import Backbone
from sharc_core.backbones.augment import Moves, moved, random_moves
from sharc_core.common.determinism import same_bits
from sharc_core.common.device import device_text
from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_folder, digest, read_json, write_json
from sharc_core.common.integrity import REMEDY, check_files, stamp
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import generator
from sharc_core.datasets import PreparedData

SPLITS = ("train", "test")
SECONDS_BETWEEN_LINES = 10
BATCH = 128  # images at a time; what an augmented view draws goes by it


@dataclass(frozen=True)
class View:
    """One view's training features. maps (N, K, h, w) float16; pooled (N, K) float32, exactly pool(maps)."""

    maps: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True)
class Features:
    """One data set through one backbone. Tensors share memory with read-only files: do not write to them.

    maps (N, K, h, w) float16; pooled (N, K) float32, exactly pool(maps); labels (N,) int64. The training
    features are the first view's; further_views: those of the others, by the view's number.
    """

    train_maps: torch.Tensor
    train_pooled: torch.Tensor
    train_labels: torch.Tensor
    test_maps: torch.Tensor
    test_pooled: torch.Tensor
    test_labels: torch.Tensor
    classes: list[str]
    manifest: dict
    further_views: dict[int, View] = field(default_factory=dict)

    def tested(self, index: torch.Tensor) -> torch.Tensor:
        """Pooled vectors (n, K) of test images index (n,)."""
        return self.test_pooled[index]


class ArrayWriter:
    """Appends to a .npy file of known shape and hashes it on the way.

    Plain writes, not a memory map: on a full disk they fail with an error instead of a bus error.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype | type):
        self.path = path
        self.stream = open(path, "w+b")  # noqa: SIM115 (closed in finish or with the process)
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)
        self.stream.seek(0)
        self.hash = hashlib.sha256(self.stream.read())

    def append(self, values: torch.Tensor) -> None:
        """Write the next rows."""
        block = np.ascontiguousarray(values.numpy()).data
        self.stream.write(block)
        self.hash.update(block)

    def finish(self) -> dict:
        """Close; the file's entry in the manifest."""
        self.stream.close()
        return {"sha256": self.hash.hexdigest(), "bytes": self.path.stat().st_size}


def extract_features(
    prepared: PreparedData,
    backbone: Backbone,
    out: Path,
    view: int = 0,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> None:
    """Run the backbone over the images of a view and write the feature folder `out`, whole or not at all.

    view 0 shows the images as they are; view v > 0 shows the training images cropped at a random place
    after padding and flipped half of the time, seeded by v. The test images are never changed: views 0
    and 1 have them, further ones do not. Memory does not grow with the data set. Raises UserError when
    the disk is too small, or when a map is not finite or beyond float16.
    """
    counts = {split: len(getattr(prepared, f"{split}_labels")) for split in splits_of(view)}
    shape = (backbone.channels, *backbone.map_size)
    check_space(Path(out), cache_bytes(sum(counts.values()), shape), f"features {out}")
    backbone = backbone.to(device)
    tally = Tally(sum(counts.values()), progress)
    files: dict[str, dict] = {}
    with atomic_folder(out) as folder, torch.inference_mode(), same_bits(device):
        for split in counts:
            writers = {
                f"{split}_maps.npy": ArrayWriter(
                    folder / f"{split}_maps.npy", (counts[split], *shape), np.float16
                ),
                f"{split}_pooled.npy": ArrayWriter(
                    folder / f"{split}_pooled.npy", (counts[split], shape[0]), np.float32
                ),
                f"{split}_labels.npy": ArrayWriter(
                    folder / f"{split}_labels.npy", (counts[split],), np.int64
                ),
            }
            images, labels = getattr(prepared, f"{split}_images"), getattr(prepared, f"{split}_labels")
            for start in range(0, counts[split], batch_size):
                part = slice(start, start + batch_size)
                batch = torch.from_numpy(np.array(images[part]))
                if view > 0 and split == "train":
                    batch = augmented_view(batch, generator(view, "view", start))
                maps = half(backbone(backbone.preprocess(batch)).cpu(), f"{split} image {start}", backbone)
                blocks = (maps, pool(maps), torch.from_numpy(np.array(labels[part], dtype=np.int64)))
                for writer, block in zip(writers.values(), blocks, strict=True):
                    writer.append(block)
                tally.add(len(batch), split)
            files |= {name: writer.finish() for name, writer in writers.items()}
        manifest = {
            "dataset": digest(prepared.manifest, 64),
            "backbone": backbone.describe(),
            "view": view,
            "device": device_text(device),
            "shape": list(shape),
            "counts": counts,
            "classes": list(prepared.manifest["classes"]),
            "files": files,
        }
        stamp(folder, list(files))
        write_json(folder / "manifest.json", manifest)
    if progress:
        progress(tally.summary())


def augmented_view(images: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """uint8 (B, H, W, 3) cropped at random places after padding, flipped half of the time.

    The padding is 4 black pixels per 32 px of the shorter side.
    """
    return moved(images, _view_moves(tuple(images.shape), source), edge=False)


def _view_moves(shape: tuple[int, ...], source: torch.Generator) -> Moves:
    return random_moves(shape[0], round(4 * min(shape[1:3]) / 32), flip=True, source=source)


def moves_of_view(shape: tuple[int, ...], view: int) -> Moves:
    """How view `view` > 0 moves each of the training images of shape (N, H, W, 3), for any of them alone."""
    blocks = [
        _view_moves((min(BATCH, shape[0] - start), *shape[1:]), generator(view, "view", start))
        for start in range(0, shape[0], BATCH)
    ]
    names = ("rows", "columns", "mirrored")
    return Moves(*(torch.cat([getattr(block, name) for block in blocks]) for name in names))


def half(maps: torch.Tensor, where: str, backbone: Backbone) -> torch.Tensor:
    """Maps as contiguous float16. Raises UserError for what float16 cannot hold."""
    half = maps.half().contiguous()
    if not half.isfinite().all():
        largest = maps.abs().max().item()
        problem = (
            f"reach {largest:.3g}, more than float16 holds" if np.isfinite(largest) else "are not finite"
        )
        raise UserError(
            f"maps of backbone {backbone.name} {problem} (in the batch from {where} on): "
            "check its weights, mean and std"
        )
    return half


def splits_of(view: int) -> tuple[str, ...]:
    """What a view's folder holds: the test images, alike in all views, are stored once."""
    return SPLITS if view <= 1 else SPLITS[:1]


def cache_bytes(images: int, shape: tuple[int, ...]) -> int:
    """What the features of so many images take on disk, for maps of shape (K, h, w)."""
    return images * (2 * math.prod(shape) + 4 * shape[0] + 8) + 1_000_000


def free_bytes(place: Path) -> int:
    """Free on the disk that `place` lies on or would lie on."""
    return shutil.disk_usage(_existing(place)).free


def _existing(place: Path) -> Path:
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())


def check_space(place: Path, needed: int, what: str) -> None:
    """Refuse to start when the disk of `place` has fewer than `needed` bytes free. Raises UserError."""
    free = free_bytes(place)
    if needed > free:
        raise UserError(
            f"{what} need {needed:,} bytes, but {_existing(place)} has {free:,} bytes free: "
            "free some space or set data_dir to another disk"
        )


class Tally:
    """Counts images and says so every few seconds."""

    def __init__(self, total: int, progress: Callable[[str], None] | None):
        self.total, self.progress, self.done = total, progress, 0
        self.began = self.said = time.perf_counter()

    def add(self, images: int, split: str) -> None:
        """Count a batch."""
        self.done += images
        now = time.perf_counter()
        if self.progress and now - self.said > SECONDS_BETWEEN_LINES:
            self.said = now
            speed = self.done / (now - self.began)
            left = (self.total - self.done) / speed
            self.progress(f"{split}: {self.done:,}/{self.total:,} images, {speed:.0f}/s, {left:.0f} s left")

    def skip(self, images: int) -> None:
        """Leave out images that an earlier run has done."""
        self.total -= images

    def summary(self) -> str:
        """The whole run in a line."""
        seconds = time.perf_counter() - self.began
        return f"{self.done:,} images in {seconds:.1f} s ({self.done / max(seconds, 1e-9):.0f}/s)"


def open_features(folder: Path | str, verify: bool = False) -> Features:
    """Map a feature folder into memory. Files' sizes, shapes and types are checked; contents if `verify`.

    Raises UserError naming the file that is missing, cut short or altered.
    """
    manifest, arrays = _open_folder(Path(folder), SPLITS, verify)
    return Features(**arrays, classes=list(manifest["classes"]), manifest=manifest)


def open_views(folders: list[Path]) -> Features:
    """The first view's features, with the training features of the views in the other folders.

    Raises UserError as open_features does, and when a folder is not of the same data and backbone.
    """
    first = open_features(folders[0])
    further = {}
    for folder in folders[1:]:
        manifest, arrays = _open_folder(Path(folder), SPLITS[:1], verify=False)
        same = ("dataset", "backbone", "shape", "classes")
        if any(manifest[key] != first.manifest[key] for key in same) or not torch.equal(
            arrays["train_labels"], first.train_labels
        ):
            raise UserError(f"features {folder} are not a view of those in {folders[0]}: {REMEDY}")
        further[manifest["view"]] = View(arrays["train_maps"], arrays["train_pooled"])
    return replace(first, further_views=further)


def _open_folder(folder: Path, splits: tuple[str, ...], verify: bool) -> tuple[dict, dict[str, Any]]:
    """Manifest, and the arrays of the splits by name."""
    if not (folder / "manifest.json").exists():
        raise UserError(f"features {folder} are missing or incomplete (no manifest.json): {REMEDY}")
    manifest = read_json(folder / "manifest.json")
    arrays = {}
    try:
        kinds: list[tuple[str, list[int], type]] = [
            ("maps", manifest["shape"], np.float16),
            ("pooled", manifest["shape"][:1], np.float32),
            ("labels", [], np.int64),
        ]
        wanted = [f"{split}_{kind}.npy" for split, (kind, *_) in product(splits, kinds)]
        check_files(folder, {name: manifest["files"][name] for name in wanted}, verify)
        for split, (kind, inner, dtype) in product(splits, kinds):
            name = f"{split}_{kind}"
            arrays[name] = _open_array(folder / f"{name}.npy", (manifest["counts"][split], *inner), dtype)
        for key in ("classes", "view", "dataset", "backbone"):
            manifest[key]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'manifest.json'} is damaged ({error} is missing): {REMEDY}") from None
    return manifest, arrays


def _open_array(path: Path, shape: tuple[int, ...], dtype: type) -> torch.Tensor:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.shape != shape or array.dtype != dtype:
        raise UserError(
            f"{path} holds {array.dtype} {array.shape} instead of {dtype.__name__} {shape}: {REMEDY}"
        )
    return _shared(array)


def map_array(path: Path) -> torch.Tensor:
    """A .npy file mapped into memory: do not write to it."""
    return _shared(np.load(path, mmap_mode="r", allow_pickle=False))


def _shared(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors and says so
        return torch.from_numpy(array)
