"""The user's features: ready arrays of vectors or maps, with labels, in one of several file formats."""

import math
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.datasets.archives import fingerprint
from sharc_core.datasets.array_files import Array
from sharc_core.datasets.base import SOURCES, SPLITS
from sharc_core.datasets.contents import Note, content_of_files
from sharc_core.datasets.feature_files import FeatureFiles
from sharc_core.datasets.feature_source import FeatureSource, numbered

NUMBERS = {"float16", "bfloat16", "float32", "float64"}
INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
CHECK = 1  # version of the check; cached facts of another version are ignored
LINES = 5  # seconds between lines of progress
BLOCK = 2**22  # numbers that are checked at a time
LARGEST = 2**63 - 1  # label
CHANNELS = 2**15 - 1  # most channels, whose numbers memories store as int16


@SOURCES.register("features")
class OwnFeatures(FeatureSource):
    """Features (N, D) or (N, K, h, w) and labels of both splits. Maps are stored as float16."""

    class Settings(BaseSettings):
        """path: file or folder with the arrays."""

        path: str = Field(min_length=1)

    @cached_property
    def files(self) -> FeatureFiles:
        """Return the files. They are looked up once; a new source sees later changes."""
        return FeatureFiles(Path(self.settings.path))

    def _array(self, split: str, kind: str) -> Array:
        return self.files.array(split, kind)

    def identity(self) -> dict[str, Any]:
        """Return settings and content hash, independent of the files' location and dates."""
        settings = self.settings.model_dump(mode="json", exclude={"path"})
        return {"source": self.name, "settings": settings, "content": self._content}

    @cached_property
    def _content(self) -> str:
        assert self._first  # taken before the files are read, so that a later change is noticed
        return content_of_files(self.data_dir, self.files.path, self.files.files)

    def class_names(self) -> list[str]:
        """Return the names of the classes in label order. Raises UserError as `check` does."""
        return list(self._facts()["classes"])

    def counts(self) -> dict[str, int]:
        """Return the samples per split. Raises UserError as `check` does."""
        return dict(self._facts()["counts"])

    def map_shape(self) -> tuple[int, int, int]:
        """Return the shape of a map. Raises UserError as `check` does."""
        channels, height, width = self._facts()["shape"]
        return channels, height, width

    def check(self, progress=None) -> None:
        """Check arrays, labels and every value. The result is cached in data_dir until the files change.

        Raises UserError for the first problem.
        """
        self._facts(progress)

    def labels(self) -> dict[str, np.ndarray]:
        """Return the labels as indices into the class names. Raises UserError as `check` and `maps` do."""
        first, labels = self._first, self._numbered()[1]
        self._check_unchanged(first)
        return labels

    def maps(self, split: str, size: int) -> Iterator[np.ndarray]:
        """Yield the maps of a split. Raises UserError, at the end, if the files have changed."""
        first, array, start = self._first, self._array(split, "features"), 0
        for block in array.rows(size):
            yield half(block, array.where, start).reshape(len(block), *map_shape(array))
            start += len(block)
        self._check_unchanged(first)

    def _check_unchanged(self, first: str) -> None:
        if self._fingerprint() != first:
            raise UserError(f"{self.files.path} was changed while it was read: run again")

    @cached_property
    def _first(self) -> str:
        """The fingerprint of the files when this source first read them."""
        return self._fingerprint()

    def _fingerprint(self) -> str:
        return fingerprint(self.files.path, self.files.files)

    def _facts(self, progress=None) -> dict[str, Any]:
        """Return what `check` found out: classes, counts and shape. A damaged cache is made again."""
        if not _is_complete(self._note.facts):
            self._note.add(**self._examined(progress))
        return self._note.facts

    @cached_property
    def _note(self) -> Note:
        return Note(self.data_dir, "features", CHECK, self._first)

    def _examined(self, progress) -> dict[str, Any]:
        features = {split: self._array(split, "features") for split in SPLITS}
        for array in features.values():
            _check_features(array)
        train, test = (features[split] for split in SPLITS)
        if train.shape[1:] != test.shape[1:]:
            raise UserError(
                f"{train.where} has {_shown(train)} per sample and {test.where} has {_shown(test)}: both "
                "splits need features of one network"
            )
        classes, labels = self._numbered()
        counts = {split: len(values) for split, values in labels.items()}
        done, began = 0, time.perf_counter()
        reported = began
        for split in SPLITS:
            for block in self.maps(split, max(1, BLOCK // math.prod(train.shape[1:]))):
                done, now = done + len(block), time.perf_counter()
                if progress and now - reported > LINES:
                    reported, total = now, sum(counts.values())
                    left = (now - began) * (total - done) / done
                    progress(f"checked {done:,} of {total:,} samples of {self.files.path}, {left:.0f} s left")
        return {"classes": classes, "counts": counts, "shape": list(map_shape(train))}

    def _numbered(self) -> tuple[list[str], dict[str, np.ndarray]]:
        labels, where = {}, {}
        for split in SPLITS:
            array = self._array(split, "labels")
            labels[split], where[split] = _read_labels(array), array.where
            samples = self._array(split, "features").shape[0]
            if len(labels[split]) != samples:
                raise UserError(
                    f"{array.where} has {len(labels[split]):,} labels for {samples:,} samples: give each "
                    "sample one label"
                )
        return numbered(labels, self.files.class_names(), where)


def _is_complete(facts: dict[str, Any]) -> bool:
    """Whether cached facts have the form of those that the check finds out."""
    try:
        numbers = [*facts["shape"], *(facts["counts"][split] for split in SPLITS)]
        names = facts["classes"]
    except (KeyError, TypeError):
        return False
    is_sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return is_sound and len(numbers) == 5 and all(isinstance(number, int) for number in numbers)


def map_shape(array: Array) -> tuple[int, int, int]:
    """Return the shape (K, h, w) of the maps of an array (N, D) or (N, K, h, w)."""
    channels, height, width = (*array.shape[1:], 1, 1)[:3]
    return channels, height, width


def half(block: np.ndarray, where: str, start: int) -> np.ndarray:
    """Round a block of samples to float16. Raises UserError for a value that float16 does not hold.

    start: number of the block's first sample, for the message.
    """
    with np.errstate(over="ignore"):
        rounded = block.astype(np.float16)
    wrong = ~np.isfinite(rounded)
    if wrong.any():
        at = np.argwhere(wrong)[0]
        value = block[tuple(at)]
        problem = (
            f"{value:.6g}, and float16 holds at most 65504: scale"
            if np.isfinite(value)
            else (f"{value}, which is not finite: correct")
        )
        raise UserError(
            f"{where}: sample {start + at[0]} (counted from 0) has the value {problem} the features"
        )
    return rounded


def _check_features(array: Array) -> None:
    if array.dtype not in NUMBERS | INTEGERS:
        raise UserError(
            f"{array.where} has type {array.dtype}: features are float16, float32, float64 or integers"
        )
    if len(array.shape) not in (2, 4):
        raise UserError(f"{array.where} has shape {array.shape}: give vectors (N, D) or maps (N, K, h, w)")
    if array.shape[1] > CHANNELS:
        raise UserError(
            f"{array.where} has {array.shape[1]:,} channels per sample: at most {CHANNELS:,} are supported, "
            "project the features to fewer"
        )
    if 0 in array.shape:
        raise UserError(f"{array.where} is empty, its shape is {array.shape}: both splits need samples")


def _shown(array: Array) -> str:
    return " x ".join(map(str, array.shape[1:])) + " numbers"


def _read_labels(array: Array) -> np.ndarray:
    """Return the labels (N,) as int64 or text. Raises UserError for other labels."""
    if array.dtype not in INTEGERS | {"text"}:
        raise UserError(f"{array.where} has type {array.dtype}: labels are integers from 0 on, or names")
    if len(array.shape) != 1 or not array.shape[0]:
        raise UserError(f"{array.where} has shape {array.shape}: give one label per sample, shape (N,)")
    labels = array.read()
    if labels.dtype.kind == "S":
        try:
            return np.char.decode(labels, "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{array.where} has names that are not UTF-8: save them as text") from None
    if labels.dtype.kind == "U":
        return labels
    if labels.max() > LARGEST:
        raise UserError(f"{array.where} has the label {labels.max()}: labels go up to {LARGEST}")
    return labels.astype(np.int64)
