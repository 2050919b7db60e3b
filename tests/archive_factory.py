"""Small archives in the formats of the originals, with what a reader should find in them.

    blocks = write_mirror(folder)   # all four, for a grid's `mirror`
    datasets = {"s_cifar10": {"tasks": 5, **blocks["cifar10"]}, ...}

Images of a class share a colour and a pattern, so that a classifier can learn them.
"""

import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from sharc_core.datasets.cifar import CLASSES_10, CLASSES_100
from sharc_core.datasets.wnids import MINI_IMAGENET, TINY_IMAGENET

# By data set: classes, folder, training files, test file, file and key of the class names, key of the labels.
CIFAR = {
    "cifar10": (
        CLASSES_10,
        "cifar-10-batches-py",
        [f"data_batch_{number}" for number in range(1, 6)],
        "test_batch",
        ("batches.meta", "label_names"),
        "labels",
    ),
    "cifar100": (
        CLASSES_100,
        "cifar-100-python",
        ["train"],
        "test",
        ("meta", "fine_label_names"),
        "fine_labels",
    ),
}
CIFAR_ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}
TINY_ARCHIVE = "tiny-imagenet-200.zip"
# The number of mini-ImageNet's classes in each of its three files.
MINI_SPLITS = {"train": 64, "val": 16, "test": 20}


class Written(NamedTuple):
    """An archive or folder, and the arrays that its source should prepare."""

    path: Path
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def checksum(self) -> str:
        return hashlib.md5(self.path.read_bytes()).hexdigest()

    def check(self, prepared) -> None:
        """Assert that an opened prepared folder holds exactly these arrays."""
        for name in ("train_images", "train_labels", "test_images", "test_labels"):
            assert np.array_equal(getattr(prepared, name), getattr(self, name)), name


class Python2Pickler(pickle._Pickler):
    """Writes pickles as Python 2 does: text as byte strings, numpy's old module name, protocol 2."""

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, stream):
        super().__init__(stream, protocol=2)

    def save_text(self, text: str | bytes) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        is_short = len(raw) < 256
        self.write(b"U" + bytes([len(raw)]) if is_short else b"T" + struct.pack("<i", len(raw)))
        self.write(raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text

    def save_global(self, thing, name=None) -> None:
        module = thing.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or thing.__qualname__}\n".encode())
        self.memoize(thing)

    dispatch[type] = save_global


def python2_pickle(content: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream).dump(content)
    return stream.getvalue()


def pictures(label: int, count: int, side: int, seed: int) -> np.ndarray:
    """Return images of one class: uint8 (count, side, side, 3)."""
    of_class = np.random.default_rng([7, label])
    colour = of_class.integers(30, 226, 3)
    stripes = np.sin(np.arange(side) * of_class.uniform(0.1, 1.5))[:, None, None] * 25
    noise = np.random.default_rng([seed, label]).integers(-20, 21, (count, side, side, 3))
    return (colour + stripes + noise).clip(0, 255).astype(np.uint8)


def shuffled(classes: int, per_class: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels in a random order."""
    images = np.concatenate([pictures(label, per_class, side, seed) for label in range(classes)])
    labels = np.arange(classes).repeat(per_class)
    order = np.random.default_rng(seed).permutation(len(labels))
    return images[order], labels[order]


def cifar_files(name: str, train: int = 5, test: int = 2) -> tuple[dict[str, dict], tuple]:
    """Return the content of the archive's files by name, and the four arrays that they contain."""
    classes, _, train_files, test_file, (meta, meta_key), labels_key = CIFAR[name]
    train_images, train_labels = shuffled(len(classes), train, 32, 0)
    test_images, test_labels = shuffled(len(classes), test, 32, 1)
    parts = np.array_split(np.arange(len(train_labels)), len(train_files))
    split = [(file, train_images[p], train_labels[p]) for file, p in zip(train_files, parts, strict=True)]
    files = {}
    for file, images, labels in [*split, (test_file, test_images, test_labels)]:
        files[file] = {
            "batch_label": f"{file} of a stand-in",
            labels_key: labels.tolist(),
            "data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
            "filenames": [f"{number}.png" for number in range(len(labels))],
        }
    files[meta] = {meta_key: list(classes), "num_vis": 3072}
    return files, (train_images, train_labels, test_images, test_labels)


def write_cifar(
    folder: Path,
    name: str,
    train: int = 5,
    test: int = 2,
    change: Callable[[dict[str, dict]], object] = lambda files: None,
    pickled: Callable[[object], bytes] = python2_pickle,
) -> Written:
    """Write a cifar-*-python.tar.gz. train, test: images per class; change: edits the files before packing.

    The files are not in the order of their numbers, as in the original.
    """
    files, arrays = cifar_files(name, train, test)
    change(files)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CIFAR_ARCHIVES[name]
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(files, reverse=True):
            content = files[file] if isinstance(files[file], bytes) else pickled(files[file])
            member = tarfile.TarInfo(f"{CIFAR[name][1]}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return Written(path, *arrays)


def mini_files(train: int = 3, test: int = 2) -> tuple[dict[str, tuple], tuple]:
    """Return images in a random order and their indices by class, per file; and the four prepared arrays."""
    rng = np.random.default_rng(3)
    classes = rng.permutation(len(MINI_IMAGENET))
    files, by_label, start = {}, {}, 0
    for split, count in MINI_SPLITS.items():
        labels = classes[start : start + count]
        start += count
        images = np.concatenate([pictures(label, train + test, 84, 2) for label in labels])
        order = rng.permutation(len(images))
        numbers = {}
        for row, label in enumerate(labels):
            own = range(row * (train + test), (row + 1) * (train + test))
            numbers[MINI_IMAGENET[label]] = np.flatnonzero(np.isin(order, own)).tolist()
            by_label[label] = images[order][numbers[MINI_IMAGENET[label]]]
        files[split] = images[order], numbers
    whole = np.stack([by_label[label] for label in range(len(MINI_IMAGENET))])
    arrays = []
    for part, each in ((whole[:, :train], train), (whole[:, train:], test)):
        arrays += [part.reshape(-1, 84, 84, 3), np.arange(len(MINI_IMAGENET)).repeat(each)]
    return files, tuple(arrays)


def write_mini(folder: Path, train: int = 3, test: int = 2, pickled=python2_pickle) -> Written:
    """Write a folder with mini-imagenet-cache-{train,val,test}.pkl."""
    files, arrays = mini_files(train, test)
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, numbers) in files.items():
        content = pickled({"image_data": images, "class_dict": numbers})
        (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(content)
    return Written(folder, *arrays)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", compress_level=1)
    return stream.getvalue()


def jpeg(image: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return an image as a JPEG file, and the decoded pixels."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "jpeg", quality=90)
    return stream.getvalue(), np.asarray(Image.open(stream).convert("RGB"))


def write_tiny(
    folder: Path,
    train: int = 2,
    test: int = 1,
    change: Callable[[dict[str, bytes]], object] = lambda files: None,
) -> Written:
    """Write a tiny-imagenet-200.zip. change: edits the files before packing."""
    top, files = TINY_ARCHIVE.removesuffix(".zip"), {}
    train_images, test_images = [], [None] * (len(TINY_IMAGENET) * test)
    for label, wnid in enumerate(TINY_IMAGENET):
        boxes = ""
        for number, image in enumerate(pictures(label, train, 64, 4)):
            content, decoded = jpeg(image)
            files[f"{top}/train/{wnid}/images/{wnid}_{number}.JPEG"] = content
            boxes += f"{wnid}_{number}.JPEG\t0\t0\t62\t62\n"
            train_images.append(decoded)
        files[f"{top}/train/{wnid}/{wnid}_boxes.txt"] = boxes.encode()
    images, labels = shuffled(len(TINY_IMAGENET), test, 64, 5)
    annotations, seen = "", dict.fromkeys(range(len(TINY_IMAGENET)), 0)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        content, decoded = jpeg(image)
        files[f"{top}/val/images/val_{number}.JPEG"] = content
        annotations += f"val_{number}.JPEG\t{TINY_IMAGENET[label]}\t0\t32\t44\t62\n"
        test_images[label * test + seen[label]] = decoded
        seen[label] += 1
    files[f"{top}/val/val_annotations.txt"] = annotations.encode()
    files[f"{top}/test/images/test_0.JPEG"] = content
    files[f"{top}/wnids.txt"] = "\n".join(sorted(TINY_IMAGENET, key=lambda w: w[::-1])).encode()
    change(files)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / TINY_ARCHIVE, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    each = np.arange(len(TINY_IMAGENET))
    return Written(
        folder / TINY_ARCHIVE,
        np.stack(train_images),
        each.repeat(train),
        np.stack(test_images),
        each.repeat(test),
    )


def write_mirror(folder: Path, per_class: int = 5, test_per_class: int = 2) -> dict[str, dict]:
    """Write all four to a mirror folder; return each data set's block of a grid file, without `tasks`."""
    blocks = {}
    for name in CIFAR:
        written = write_cifar(folder, name, per_class, test_per_class)
        blocks[name] = {"source": name, "checksum": written.checksum}
    written = write_tiny(folder, per_class, test_per_class)
    blocks["tiny_imagenet"] = {"source": "tiny_imagenet", "checksum": written.checksum}
    written = write_mini(folder / "mini-imagenet", per_class, test_per_class)
    blocks["mini_imagenet"] = {
        "source": "mini_imagenet",
        "path": str(written.path),
        "train_per_class": per_class,
        "test_per_class": test_per_class,
    }
    return blocks
