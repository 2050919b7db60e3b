"""The feature cache: maps and pooled vectors, written once per (data set, backbone, view), read in place."""

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

from sharc_core.backbones import Backbone
from sharc_core.backbones.augment import Moves, moved, random_moves
from sharc_core.common.deferred import torch
from sharc_core.common.device import device_text
from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, left_bytes, read_json, resumable_folder, write_json
from sharc_core.common.integrity import REMEDY, check_files, stamp
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import generator
from sharc_core.datasets import PreparedData
from sharc_core.features.arrays import PROGRESS, InOrder, Progress

SPLITS = ("train", "test")
SECONDS_BETWEEN_LINES = 10
BATCH = 128  # images per forward pass; the draws of an augmented view depend on it
AHEAD = 2  # batches that a GPU computes before they are written


@dataclass(frozen=True)
class View:
    """The training features of one view. maps (N, K, h, w) float16; pooled (N, K) float32 = pool(maps)."""

    maps: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True)
class Features:
    """The features of one data set and backbone. Do not write to the tensors: they map read-only files.

    maps (N, K, h, w) float16; pooled (N, K) float32, exactly pool(maps); labels (N,) int64. The training
    features are those of the first view. further_views: the training features of the other views, by number.
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
        """Return the pooled vectors (n, K) of the test images with indices (n,)."""
        return self.test_pooled[index]


def extract_features(
    prepared: PreparedData,
    backbone: Backbone,
    out: Path,
    view: int = 0,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> None:
    """Run the backbone over the images of a view and write the feature folder `out` atomically.

    View 0 is the original images. View v > 0 is the training images cropped at a random place after padding
    and flipped with probability 1/2, seeded by v. The test images are never changed; only views 0 and 1
    contain them. Memory does not grow with the data set. What an interrupted call had written is kept, and
    the next one with the same arguments goes on after it. Raises UserError when the disk is too small, or
    when a map is not finite or exceeds float16.
    """
    counts = {split: len(getattr(prepared, f"{split}_labels")) for split in splits_of(view)}
    shape = (backbone.channels, *backbone.map_size)
    needed = cache_bytes(sum(counts.values()), shape) - left_bytes(out)  # is used again or removed
    check_space(Path(out), needed, f"features {out}")
    backbone = backbone.to(device)
    made_from = {
        "dataset": digest(prepared.manifest, 64),
        "backbone": backbone.describe(),
        "view": view,
        "device": device_text(device),
    }
    tally = Tally(sum(counts.values()), progress)
    files: dict[str, dict] = {}
    from sharc_core.common.determinism import same_bits  # imports torch, which a plan does not need

    written = Progress(made_from | {"batch_size": batch_size})
    ahead = 0 if torch.device(device).type == "cpu" else AHEAD
    with (
        resumable_folder(out, PROGRESS, written.resume) as folder,
        torch.inference_mode(),
        same_bits(device),
        InOrder(ahead) as in_order,
    ):
        finished = sum(written.rows.values())
        tally.skip(finished)
        if finished and progress:
            progress(f"goes on after {finished:,} images that an interrupted call had finished")
        for split in counts:
            writers = _Writers(folder, split, counts[split], shape, written, backbone)
            images, labels = getattr(prepared, f"{split}_images"), getattr(prepared, f"{split}_labels")
            for start in range(written.rows.get(split, 0), counts[split], batch_size):
                part = slice(start, start + batch_size)
                batch = torch.from_numpy(np.array(images[part]))
                if view > 0 and split == "train":
                    batch = augmented_view(batch, generator(view, "view", start))
                maps = backbone(backbone.preprocess(batch))
                in_order(writers.append, start, maps, np.array(labels[part], dtype=np.int64))
                tally.add(len(batch), split)
            in_order(writers.finish, files)
        in_order.wait()
        manifest = made_from | {
            "shape": list(shape),
            "counts": counts,
            "classes": list(prepared.manifest["classes"]),
            "files": files,
        }
        (folder / PROGRESS).unlink(missing_ok=True)
        stamp(folder, list(files))
        write_json(folder / "manifest.json", manifest)
    if progress:
        progress(tally.summary())


class _Writers:
    """Writes the maps of a split, their pooled vectors and labels, and records what is written."""

    def __init__(
        self,
        folder: Path,
        split: str,
        count: int,
        shape: tuple[int, ...],
        written: Progress,
        backbone: Backbone,
    ):
        self.folder, self.split, self.count = folder, split, count
        self.written, self.backbone = written, backbone
        kinds: list[tuple[str, tuple[int, ...], type]]
        kinds = [("maps", shape, np.float16), ("pooled", shape[:1], np.float32), ("labels", (), np.int64)]
        self.writers = [
            written.writer(folder / f"{split}_{kind}.npy", (count, *inner), dtype)
            for kind, inner, dtype in kinds
        ]

    def append(self, start: int, maps: torch.Tensor, labels: np.ndarray) -> None:
        """Write maps (B, K, h, w) of the images from `start` on, which may be on another device."""
        with torch.inference_mode():  # a thread has its own mode
            halves = half(maps, f"{self.split} image {start}", self.backbone).cpu()
            blocks = (halves, pool(halves), torch.from_numpy(labels))
            for writer, block in zip(self.writers, blocks, strict=True):
                writer.append(block)
        self.written.record(self.folder, self.split, start + len(labels), self.writers)

    def finish(self, files: dict[str, dict]) -> None:
        """Close the files and add their entries in the manifest to `files`."""
        entries = {writer.path.name: writer.finish() for writer in self.writers}
        self.written.complete(self.split, self.count, entries)
        files |= entries


def augmented_view(images: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """Crop images uint8 (B, H, W, 3) at random places after padding; flip them with probability 1/2.

    The padding is 4 black pixels per 32 px of the shorter side. Returns images of the same shape.
    """
    return moved(images, _view_moves(tuple(images.shape), source), edge=False)


def _view_moves(shape: tuple[int, ...], source: torch.Generator) -> Moves:
    return random_moves(shape[0], round(4 * min(shape[1:3]) / 32), flip=True, source=source)


def moves_of_view(shape: tuple[int, ...], view: int) -> Moves:
    """Return the moves of all training images, of shape (N, H, W, 3), in view `view` > 0.

    They equal the draws of extract_features with its default batch size.
    """
    blocks = [
        _view_moves((min(BATCH, shape[0] - start), *shape[1:]), generator(view, "view", start))
        for start in range(0, shape[0], BATCH)
    ]
    names = ("rows", "columns", "mirrored")
    return Moves(*(torch.cat([getattr(block, name) for block in blocks]) for name in names))


def half(maps: torch.Tensor, where: str, backbone: Backbone) -> torch.Tensor:
    """Convert maps to contiguous float16. Raises UserError for values that float16 cannot hold.

    where: the first image of the batch, for the message.
    """
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
    """Return the splits in a view's folder. The test images, equal in all views, are stored once."""
    return SPLITS if view <= 1 else SPLITS[:1]


def cache_bytes(images: int, shape: tuple[int, ...]) -> int:
    """Estimate the bytes on disk of the features of `images` images, for maps of shape (K, h, w)."""
    return images * (2 * math.prod(shape) + 4 * shape[0] + 8) + 1_000_000


def free_bytes(place: Path) -> int:
    """Return the free bytes on the disk of `place`, which need not exist."""
    return shutil.disk_usage(_existing(place)).free


def _existing(place: Path) -> Path:
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())


def check_space(place: Path, needed: int, what: str) -> None:
    """Raise UserError when the disk of `place` has fewer than `needed` free bytes."""
    free = free_bytes(place)
    if needed > free:
        raise UserError(
            f"{what} need {needed:,} bytes, but {_existing(place)} has {free:,} bytes free: "
            "free some space or set data_dir to another disk"
        )


class Tally:
    """Counts images and reports progress every few seconds."""

    def __init__(self, total: int, progress: Callable[[str], None] | None):
        self.total, self.progress, self.done = total, progress, 0
        self.began = self.reported = time.perf_counter()

    def add(self, images: int, split: str) -> None:
        """Count a batch and report the progress if the last report is old enough."""
        self.done += images
        now = time.perf_counter()
        if self.progress and now - self.reported > SECONDS_BETWEEN_LINES:
            self.reported = now
            speed = self.done / (now - self.began)
            left = (self.total - self.done) / speed
            self.progress(f"{split}: {self.done:,}/{self.total:,} images, {speed:.0f}/s, {left:.0f} s left")

    def skip(self, images: int) -> None:
        """Exclude images that an earlier run has processed."""
        self.total -= images

    def summary(self) -> str:
        """Return number of images, seconds and speed of the run as one line."""
        seconds = time.perf_counter() - self.began
        return f"{self.done:,} images in {seconds:.1f} s ({self.done / max(seconds, 1e-9):.0f}/s)"


def open_features(folder: Path | str, verify: bool = False) -> Features:
    """Map a feature folder into memory and check the files' sizes, shapes and types.

    verify: hash all files. By default only those that changed are hashed (see integrity.py). Raises UserError
    naming the file that is missing, cut short or altered.
    """
    manifest, arrays = _open_folder(Path(folder), SPLITS, verify)
    return Features(**arrays, classes=list(manifest["classes"]), manifest=manifest)


def open_views(folders: list[Path]) -> Features:
    """Open the features of the first folder, with the other folders as further views.

    Raises UserError as open_features does, and when a folder has another data set or backbone.
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
    """Return the manifest, and the arrays of the splits by name. Raises UserError as open_features does."""
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
    """Map a .npy file into memory. Do not write to the tensor."""
    return _shared(np.load(path, mmap_mode="r", allow_pickle=False))


def _shared(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors and warns
        return torch.from_numpy(array)
