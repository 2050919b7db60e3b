"""The interface of a data source, and the prepared folder that every source writes.

A prepared folder holds train_images.npy (N, H, W, 3) uint8, train_labels.npy (N,) int64, the same for
test, and manifest.json. The manifest is written last; a folder without it is not a data set.
"""

import contextlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_folder, read_json, write_json
from sharc_core.common.integrity import REMEDY, check_files, entry, stamp
from sharc_core.common.registry import Registry
from sharc_core.common.settings import Settings as BaseSettings

SOURCES = Registry("data source", "sharc_core.datasets")
SPLITS = ("train", "test")
ARRAYS = [f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels")]
Progress = Callable[[str], None] | None


class Source:
    """One origin of images. Subclass it under `@SOURCES.register("name")` in a file of this package."""

    name: str
    settings: Any  # an instance of the class's Settings

    class Settings(BaseSettings):
        """Keys of the config block besides source, tasks and class_order_seed."""

    def __init__(self, settings: BaseSettings, data_dir: Path, mirror: Path | None = None):
        """data_dir: folder of downloads and caches. mirror: folder of the original archives."""
        self.settings = settings
        self.data_dir = Path(data_dir)
        self.mirror = mirror

    def class_names(self) -> list[str]:
        """Return the class names in label order. Cheap; needs no download."""
        raise NotImplementedError  # abstract

    def check(self, progress: Progress = None) -> None:
        """Raise UserError for data that cannot be prepared. Runs before any job.

        progress: called with a line of text every few seconds.
        """

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the prepared content; JSON-able."""
        return {"source": self.name, "settings": self.settings.model_dump(mode="json")}

    def counts(self) -> dict[str, int] | None:
        """Return the images per split if known without preparing them, else None. Call check() first."""
        return None

    def content_ids(self) -> set[str]:
        """Return identifiers of the classes' content, comparable between sources; empty when unknown."""
        return set()

    def prepare(self, out: Path, progress: Progress = None) -> None:
        """Write the prepared folder `out` atomically."""
        raise NotImplementedError  # abstract


@dataclass(frozen=True)
class PreparedData:
    """An open prepared folder, with its manifest and read-only memory-mapped arrays.

    images (N, H, W, 3) uint8; labels (N,) int64.
    """

    manifest: dict[str, Any]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> list[str]:
        """Return the class names in label order."""
        return self.manifest["classes"]


def open_prepared(folder: Path | str, verify: bool = False) -> PreparedData:
    """Open a prepared folder.

    verify: hash all files. By default only those that changed are hashed (sharc_core.common.integrity).
    Raises UserError naming the file that is missing, cut short or altered.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    try:
        entries = {name: manifest["files"][name] for name in ARRAYS}
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'manifest.json'} is damaged ({error} is missing): {REMEDY}") from None
    check_files(folder, entries, verify)
    return PreparedData(manifest, *(np.load(folder / name, mmap_mode="r") for name in ARRAYS))


class Writer:
    """Write images to the memory-mapped arrays of a folder that is being prepared."""

    def __init__(self, folder: Path, counts: dict[str, int], shape: tuple[int, int]):
        """counts: images per split. shape: (H, W)."""
        self.folder = folder
        self.images, self.labels, self.filled = {}, {}, dict.fromkeys(SPLITS, 0)
        for split in SPLITS:
            size = counts[split]
            self.images[split] = _reserved(folder / f"{split}_images.npy", np.uint8, (size, *shape, 3))
            self.labels[split] = _reserved(folder / f"{split}_labels.npy", np.int64, (size,))

    def add(self, split: str, images: np.ndarray, labels: np.ndarray | int) -> None:
        """Append images (n, H, W, 3) uint8 with labels (n,), or one label for all."""
        start = self.filled[split]
        stop = start + len(images)
        self.images[split][start:stop] = images
        self.labels[split][start:stop] = labels
        self.filled[split] = stop

    def counts(self, classes: int) -> dict[str, Any]:
        """Return the images per split, and per split and class."""
        images: dict[str, Any] = {split: len(self.labels[split]) for split in SPLITS}
        for split in SPLITS:
            images[f"{split}_per_class"] = np.bincount(self.labels[split], minlength=classes).tolist()
        return images


def _reserved(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """Create a memory-mapped .npy file and allocate its blocks immediately.

    A full disk then raises an error here. Otherwise a later write to the map would kill the process.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


@contextlib.contextmanager
def writing(source: Source, out: Path, counts: dict[str, int], shape: tuple[int, int]) -> Iterator[Writer]:
    """Yield a Writer. Its folder appears as `out`, with the manifest, when the body ends without an error."""
    with atomic_folder(out) as folder:
        writer = Writer(folder, counts, shape)
        yield writer
        for split in SPLITS:
            assert writer.filled[split] == counts[split], f"{split}: {writer.filled[split]} images written"
            writer.images[split].flush()
            writer.labels[split].flush()
        classes = source.class_names()
        manifest = {
            **source.identity(),
            "classes": classes,
            "content_ids": sorted(source.content_ids()),
            "image_shape": [*shape, 3],
            "counts": writer.counts(len(classes)),
            "files": {name: entry(folder / name) for name in ARRAYS},
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "pillow": PIL.__version__,
            },
        }
        stamp(folder, ARRAYS)
        write_json(folder / "manifest.json", manifest)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Yield lists of up to `size` consecutive items."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
