"""Readers of the forms in which mini-ImageNet is distributed: pickles, image files, parquet.

Each reader returns the images' keys by class, in the file's order, and yields the images.
"""

import importlib
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from sharc_core.common.errors import UserError
from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.contents import content_of_container, content_of_files
from sharc_core.datasets.file_names import composed
from sharc_core.datasets.pictures import EXTENSIONS, decode_all, read_images
from sharc_core.datasets.restricted_pickle import load_pickle
from sharc_core.datasets.wnids import MINI_IMAGENET

CLASS_SPLITS = ("train", "val", "test")
# Names of the three pickles. In the second row, the train file of the train phase holds all 600 of a class.
PICKLES = (
    [f"mini-imagenet-cache-{split}.pkl" for split in CLASS_SPLITS],
    [f"miniImageNet_category_split_{split}.pickle" for split in ("train_phase_train", "val", "test")],
    [f"{split}.pkl" for split in CLASS_SPLITS],
    [f"{split}.pickle" for split in CLASS_SPLITS],
)
ROWS = 256  # rows of a parquet file read at a time


class Form:
    """Base of the three readers. is_cheap: whether index() works without reading the images."""

    is_cheap: bool
    expected: str  # the layout, as messages describe it

    def __init__(self, path: Path):
        self.path = path

    def index(self) -> dict[str, list[str]]:
        """Return the images' keys by class, in order. Raises UserError for an unreadable file."""
        raise NotImplementedError  # abstract

    def images(self, keys: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
        """Yield (key, image) for the given keys, in any order. Raises UserError for an unreadable image."""
        raise NotImplementedError  # abstract

    def content(self, data_dir: Path) -> str:
        """Return the hash of all files read. It is cached in data_dir until the files change."""
        raise NotImplementedError  # abstract


def form_of(path: Path) -> Form:
    """Return the reader for `path`. Raises UserError for incomplete pickles or an unknown form."""
    if path.suffix == ".parquet":
        return Parquet(path, [path])
    if path.is_dir():
        for names in PICKLES:
            missing = [name for name in names if not (path / name).is_file()]
            if not missing:
                return Pickles(path, [path / name for name in names])
            if len(missing) < len(names):
                raise UserError(f"{path} has no {missing[0]} next to the other pickles: put it there")
        files = [p for p in path.rglob("*.parquet") if p.is_file()]
        if files:
            return Parquet(path, sorted(files, key=lambda p: _order(p.name, p.as_posix())))
    return Images(path)


class Pickles(Form):
    """Pickled dicts with `image_data` or `data`, (N, H, W, 3) uint8, and the images' indices by class.

    The classes are in `class_dict`, {wnid: indices}, or in `labels`, a number per image, with
    `catname2label`, {wnid: number}.
    """

    is_cheap = False
    expected = "expected the three files of one origin"

    def __init__(self, path: Path, files: list[Path]):
        super().__init__(path)
        self.files = files

    def index(self) -> dict[str, list[str]]:
        """Return the keys in the order of a class's indices, files in the order train, val, test."""
        keys: dict[str, list[str]] = {}
        for file in self.files:
            _, classes = self._read(file)
            for wnid, numbers in classes.items():
                keys.setdefault(wnid, []).extend(self._key(file, number) for number in numbers)
        return keys

    def images(self, keys: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
        """Yield the images of one file at a time, so that only one is in memory."""
        for file in self.files:
            images, _ = self._read(file)
            for number, image in enumerate(images):
                if self._key(file, number) in keys:
                    yield self._key(file, number), Image.fromarray(image)

    def content(self, data_dir: Path) -> str:
        """Return the hash of the three files by split, whatever their names."""
        files = dict(zip(CLASS_SPLITS, self.files, strict=True))
        return content_of_files(data_dir, self.path, files)

    def _key(self, file: Path, number: int) -> str:
        return f"{file.name} image {number}"

    def _read(self, file: Path) -> tuple[np.ndarray, dict[str, list[int]]]:
        with open(file, "rb") as stream:
            content = load_pickle(stream, file)
        content = content if isinstance(content, dict) else {}
        images = content.get("image_data", content.get("data"))
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[3:] != (3,):
            form = (
                f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
            )
            raise UserError(
                f"{file}: image_data (or data) is {form}, expected uint8 (n, height, width, 3): "
                "get the file again"
            )
        try:
            classes = self._numbers(content)
            is_valid = all(0 <= number < len(images) for numbers in classes.values() for number in numbers)
        except (KeyError, TypeError, ValueError, AttributeError):
            is_valid = False
        if not is_valid:
            raise UserError(
                f"{file} does not say which of its {len(images):,} images are of which class, by "
                "class_dict or by labels and catname2label: get the file again"
            )
        return np.asarray(images), classes

    def _numbers(self, content: dict) -> dict[str, list[int]]:
        if "class_dict" in content:
            return {str(wnid): list(map(int, numbers)) for wnid, numbers in content["class_dict"].items()}
        labels = np.asarray(content["labels"], dtype=np.int64)
        return {
            str(wnid): np.flatnonzero(labels == label).tolist()
            for wnid, label in content["catname2label"].items()
        }


class Images(Form):
    """A folder, zip or tar of <class>/<image> or <train|val|test>/<class>/<image>."""

    is_cheap = True
    expected = "expected <class>/<image>, classes named by WordNet numbers, or pickles or parquet files"

    def __init__(self, path: Path):
        super().__init__(path)
        self.container = Container(path)

    def index(self) -> dict[str, list[str]]:
        """Return the names in natural order, those below train, val and test in this order."""
        names: dict[str, list[str]] = {}
        classes, taken = set(MINI_IMAGENET), []
        for name in self.container.names():
            path = PurePosixPath(name)
            if path.parent.name in classes and path.suffix.lower() in EXTENSIONS:
                taken.append((_order(path.parent.parent.name, name), path.parent.name, name))
        for _, wnid, name in sorted(taken):
            names.setdefault(wnid, []).append(name)
        return names

    def images(self, keys: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
        """Yield the images, decoded in place."""
        return read_images(self.container, list(keys))

    def content(self, data_dir: Path) -> str:
        """Return the hash of the images and their paths."""
        names = {name: composed(name) for names in self.index().values() for name in names}
        return content_of_container(data_dir, self.container, names)


class Parquet(Form):
    """Parquet files with a column `image` (the file's bytes, alone or as {bytes, path}) and a column `label`.

    Labels are WordNet numbers, or indices into the names in the file's metadata of a `datasets` feature.
    """

    is_cheap = True
    expected = "expected labels that are WordNet numbers, or whose names in the file's metadata are"

    def __init__(self, path: Path, files: list[Path]):
        super().__init__(path)
        self.files = files
        try:
            # imported by name, because pyarrow's version changes no pixel and must not enter any hash
            self.parquet = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise UserError(
                f"{path}: parquet files need pyarrow, which is not installed: pip install pyarrow, or "
                "give pickles or image files"
            ) from None

    def index(self) -> dict[str, list[str]]:
        """Return the keys in the files' order, files in the order train, val, test and then natural order."""
        keys: dict[str, list[str]] = {}
        for file in self.files:
            names = self._label_names(file)
            for number, (label,) in enumerate(self._rows(file, ["label"])):
                if isinstance(label, int) and not 0 <= label < len(names):
                    raise UserError(f"{file}: label {label} has no name in its metadata: {self.expected}")
                wnid = names[label] if isinstance(label, int) else str(label)
                keys.setdefault(wnid, []).append(self._key(file, number))
        return keys

    def images(self, keys: Collection[str]) -> Iterator[tuple[str, Image.Image]]:
        """Yield the images, decoded from ROWS rows at a time."""
        return decode_all(self._contents(keys), self.path)

    def content(self, data_dir: Path) -> str:
        """Return the hash of the files and their paths; the path of a single file does not count."""
        files = {self._name(file) if len(self.files) > 1 else "": file for file in self.files}
        return content_of_files(data_dir, self.path, files)

    def _contents(self, keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
        for file in self.files:
            for number, (image,) in enumerate(self._rows(file, ["image"])):
                key = self._key(file, number)
                if key in keys:
                    content = image.get("bytes") if isinstance(image, dict) else image
                    if not isinstance(content, bytes):
                        raise UserError(f"{self.path}: {key} holds no bytes of an image: get the file again")
                    yield key, content

    def _key(self, file: Path, number: int) -> str:
        return f"{self._name(file)} row {number}"

    def _name(self, file: Path) -> str:
        return file.name if file == self.path else file.relative_to(self.path).as_posix()

    def _rows(self, file: Path, columns: list[str]) -> Iterator[tuple]:
        with self._opened(file) as opened:
            missing = [name for name in columns if name not in opened.schema_arrow.names]
            if missing:
                raise UserError(
                    f"{file} has no column {missing[0]!r}, only {', '.join(opened.schema_arrow.names)}: "
                    "expected image and label"
                )
            try:
                for batch in opened.iter_batches(batch_size=ROWS, columns=columns):
                    yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
            except OSError as error:
                raise self._damaged(file, error) from None

    def _opened(self, file: Path):
        try:
            return self.parquet.ParquetFile(file)
        except (OSError, ValueError) as error:  # pyarrow's errors derive from one of these
            raise self._damaged(file, error) from None

    def _damaged(self, file: Path, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(f"{file} cannot be read, it is corrupt or cut short ({reason}): get it again")

    def _label_names(self, file: Path) -> list[str]:
        """Return the names of the labels by number; empty when the file has no such metadata."""
        with self._opened(file) as opened:
            metadata = (opened.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        try:
            return list(json.loads(metadata)["info"]["features"]["label"]["names"])
        except (ValueError, KeyError, TypeError):
            return []


def _order(part: str, name: str) -> tuple:
    """Return a sort key: train, val, test if `part` begins with one of them, then natural order of `name`."""
    match = re.match("|".join(CLASS_SPLITS), part)
    return [CLASS_SPLITS.index(match.group())] if match else [], natural(name)
