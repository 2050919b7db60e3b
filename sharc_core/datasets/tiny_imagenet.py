"""Tiny-ImageNet: 200 ImageNet classes with 500 training and 50 test images each, of 64 x 64 pixels.

The published test images have no labels. As is common, the validation images are the test split.
"""

from pathlib import Path, PurePosixPath

from sharc_core.common.errors import UserError
from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.base import SOURCES, Progress
from sharc_core.datasets.download import Archive, ArchiveSource
from sharc_core.datasets.pictures import read_images, rows, write_images
from sharc_core.datasets.wnids import TINY_IMAGENET

SIDE = 64
TOP = "tiny-imagenet-200"
ANNOTATIONS = f"{TOP}/val/val_annotations.txt"


@SOURCES.register("tiny_imagenet")
class TinyImageNet(ArchiveSource):
    """Classes are WordNet numbers in sorted order, images of a class in natural order of their names."""

    prepared_bytes = 110_000 * (SIDE * SIDE * 3 + 8)

    def original(self) -> Archive:
        """Return the archive with the URL and MD5 that other loaders use (torchvision has none)."""
        name = f"{TOP}.zip"
        return Archive(
            name, f"http://cs231n.stanford.edu/{name}", "90528d7ca1a48142e341f4ef8d21d0de", 248_100_043
        )

    def class_names(self) -> list[str]:
        """Return the WordNet numbers, sorted."""
        return list(TINY_IMAGENET)

    def counts(self) -> dict[str, int]:
        """Return the published numbers of training and validation images."""
        return {"train": 100_000, "test": 10_000}

    def content_ids(self) -> set[str]:
        """Return the WordNet numbers. Other ImageNet subsets share them."""
        return {f"wnid:{wnid}" for wnid in TINY_IMAGENET}

    def write(self, archive: Path, out: Path, progress: Progress) -> None:
        """Decode the images in place and write them. Raises UserError for an unexpected file or class."""
        container = Container(archive)
        classes = {
            "train": self._by_class(archive, "train", self._train(container)),
            "test": self._by_class(archive, "val", self._validation(container)),
        }
        place = rows(classes)
        write_images(self, out, place, SIDE, read_images(container, list(place)), progress)

    def _by_class(self, archive: Path, part: str, images: list[tuple[str, str]]) -> dict[int, list[str]]:
        """Return names by label, in natural order, from (name, wnid) pairs.

        Raises UserError for an unknown class or a class without images.
        """
        by_class: dict[int, list[str]] = {label: [] for label in range(len(TINY_IMAGENET))}
        labels = {wnid: label for label, wnid in enumerate(TINY_IMAGENET)}
        for name, wnid in sorted(images, key=lambda pair: natural(pair[0])):
            if wnid not in labels:
                raise UserError(f"{archive}: {name} is of class {wnid}, not one of the 200: get the original")
            by_class[labels[wnid]].append(name)
        for wnid, label in labels.items():
            if not by_class[label]:
                raise UserError(f"{archive} has no {part} image of class {wnid}: get the original")
        return by_class

    def _train(self, container: Container) -> list[tuple[str, str]]:
        images = []
        for name in container.names():
            match PurePosixPath(name).parts:
                case (top, "train", wnid, "images", _) if top == TOP:
                    images.append((name, wnid))
        return images

    def _validation(self, container: Container) -> list[tuple[str, str]]:
        """Return (name, wnid) pairs from the annotations (tab-separated: image, class, box)."""
        present = set(container.names())
        if ANNOTATIONS not in present:
            raise UserError(f"{container.path} has no {ANNOTATIONS}: get the original archive")
        ((_, content),) = container.read([ANNOTATIONS])
        images = []
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            fields = line.split("\t")
            name = f"{TOP}/val/images/{fields[0]}"
            if len(fields) < 2 or name not in present:
                raise UserError(
                    f"{container.path}: line {number} of val_annotations.txt names no image and class of the "
                    "archive: get the original"
                )
            images.append((name, fields[1]))
        return images
