"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 32 x 32 pixels, as published.

Class names, URL, checksum and the order of the batches are torchvision's. The archive is read in place.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from sharc_core.common.deferred import torchvision_datasets as datasets
from sharc_core.common.errors import UserError
from sharc_core.datasets.archives import Container
from sharc_core.datasets.base import SOURCES, Progress, writing
from sharc_core.datasets.download import Archive, ArchiveSource
from sharc_core.datasets.restricted_pickle import load_pickle

SIDE = 32
CLASSES_10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_CLASSES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES_100 = _CLASSES_100.split()


class Cifar(ArchiveSource):
    """Read CIFAR images in the archive's order: training batches 1 to 5, each in its own order."""

    torchvision_name: str
    classes: list[str]
    labels_key: str
    size: int  # bytes of the archive
    prepared_bytes = 60_000 * (SIDE * SIDE * 3 + 8)

    def _published(self) -> Any:
        return getattr(datasets, self.torchvision_name)

    def original(self) -> Archive:
        """Return the archive with torchvision's name, URL and MD5."""
        published = self._published()
        return Archive(published.filename, published.url, published.tgz_md5, self.size)

    def class_names(self) -> list[str]:
        """Return the class names in label order."""
        return list(self.classes)

    def counts(self) -> dict[str, int]:
        """Return the published numbers of images."""
        return {"train": 50_000, "test": 10_000}

    def content_ids(self) -> set[str]:
        """Return ids prefixed with the data set's name: CIFAR-10 and CIFAR-100 have no class in common."""
        return {f"{self.name}:{name}" for name in self.classes}

    def write(self, archive: Path, out: Path, progress: Progress) -> None:
        """Read the batches and write them, split by split.

        Raises UserError for an archive with other files, classes or arrays than the published one.
        """
        published = self._published()
        batches = {
            "train": [name for name, _ in published.train_list],
            "test": [name for name, _ in published.test_list],
        }
        meta = published.meta["filename"]
        contents = self._read(archive, published.base_folder, [*batches["train"], *batches["test"], meta])
        names = _value(contents[meta], published.meta["key"], f"{archive}: {meta}")
        if names != self.classes:
            raise UserError(f"{archive}: {meta} names other classes than {self.name}'s: get the original")
        parts = {
            split: [self._batch(contents[name], f"{archive}: {name}") for name in files]
            for split, files in batches.items()
        }
        for split, pairs in parts.items():
            labels = np.concatenate([labels for _, labels in pairs])
            per_class = np.bincount(labels, minlength=len(self.classes))
            if not per_class.all():
                absent = self.classes[int(per_class.argmin())]
                raise UserError(f"{archive} has no {split} image of class {absent}: get the original")
        counts = {split: sum(len(labels) for _, labels in pairs) for split, pairs in parts.items()}
        with writing(self, out, counts, (SIDE, SIDE)) as writer:
            for split, pairs in parts.items():
                for images, labels in pairs:
                    writer.add(split, images, labels)
        if progress:
            progress(f"read {counts['train']:,} training and {counts['test']:,} test images")

    def _read(self, archive: Path, folder: str, files: list[str]) -> dict[str, object]:
        """Return the unpickled content of the files, by file name."""
        container = Container(archive)
        present = set(container.names())
        for name in files:
            if f"{folder}/{name}" not in present:
                raise UserError(f"{archive} has no {folder}/{name}: get the original archive")
        contents = container.read([f"{folder}/{name}" for name in files])
        return {
            Path(name).name: load_pickle(io.BytesIO(content), f"{archive}: {name}")
            for name, content in contents
        }

    def _batch(self, content: object, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Check a batch and return its images (n, 32, 32, 3) uint8 and labels (n,) int64."""
        data, labels = _value(content, "data", where), _value(content, self.labels_key, where)
        width = SIDE * SIDE * 3
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (width,):
            form = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise UserError(f"{where}: data is {form}, expected uint8 (n, {width}): get the original")
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.shape != (len(data),):
            raise UserError(
                f"{where}: {len(data):,} images but {self.labels_key} is {labels.dtype} {labels.shape}, "
                "expected one number per image: get the original"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise UserError(
                f"{where}: labels go from {labels.min()} to {labels.max()}, expected 0 to "
                f"{len(self.classes) - 1}: get the original"
            )
        return data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels.astype(np.int64)


def _value(content: object, key: str, where: str) -> object:
    if not isinstance(content, dict) or key not in content:
        raise UserError(f"{where} holds no {key!r}: get the original")
    return content[key]


@SOURCES.register("cifar10")
class Cifar10(Cifar):
    """CIFAR-10 (Krizhevsky 2009), ten classes."""

    torchvision_name, classes, labels_key, size = "CIFAR10", CLASSES_10, "labels", 170_498_071


@SOURCES.register("cifar100")
class Cifar100(Cifar):
    """CIFAR-100 (Krizhevsky 2009), with its hundred fine labels as classes."""

    torchvision_name, classes, labels_key, size = "CIFAR100", CLASSES_100, "fine_labels", 169_001_437
