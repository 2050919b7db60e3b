"""The interface of a data source that has features in place of images, so that no backbone runs.

Its prepared folder holds train_labels.npy and test_labels.npy (N,) int64, and manifest.json, written last.
The features themselves are not copied there: sharc_core.features.own writes them in the cache's format.
"""

import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_folder, read_json, write_json
from sharc_core.common.integrity import REMEDY, check_files, entry, stamp
from sharc_core.datasets.base import SOURCES, SPLITS, Source

LABELS = [f"{split}_labels.npy" for split in SPLITS]


class FeatureSource(Source):
    """A source of features. It also implements class_names, check, identity and counts of Source."""

    def map_shape(self) -> tuple[int, int, int]:
        """Return the shape (K, h, w) of a map; (D, 1, 1) for vectors of D numbers. Call check() first."""
        raise NotImplementedError  # abstract

    def maps(self, split: str, size: int) -> Iterator[np.ndarray]:
        """Yield the maps of a split in order, as float16 (n, K, h, w) with n <= `size`.

        Raises UserError for a value that is not finite or that float16 cannot hold.
        """
        raise NotImplementedError  # abstract

    def labels(self) -> dict[str, np.ndarray]:
        """Return the labels (N,) int64 of each split, as indices into the class names."""
        raise NotImplementedError  # abstract

    def prepare(self, out: Path, progress=None) -> None:
        """Write the labels and the manifest."""
        classes, labels = self.class_names(), self.labels()
        counts: dict[str, Any] = {split: len(values) for split, values in labels.items()}
        for split, values in labels.items():
            counts[f"{split}_per_class"] = np.bincount(values, minlength=len(classes)).tolist()
        with atomic_folder(out) as folder:
            for split, values in labels.items():
                np.save(folder / f"{split}_labels.npy", values)
            manifest = {
                **self.identity(),
                "classes": classes,
                "content_ids": [],
                "map_shape": list(self.map_shape()),
                "counts": counts,
                "files": {name: entry(folder / name) for name in LABELS},
                "versions": {"python": platform.python_version(), "numpy": np.__version__},
            }
            stamp(folder, LABELS)
            write_json(folder / "manifest.json", manifest)


@dataclass(frozen=True)
class PreparedLabels:
    """An open prepared folder of a FeatureSource. labels: (N,) int64 of each split."""

    manifest: dict[str, Any]
    labels: dict[str, np.ndarray]


def open_labels(folder: Path | str) -> PreparedLabels:
    """Open the prepared folder of a FeatureSource. Raises UserError for a damaged one."""
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    try:
        check_files(folder, {name: manifest["files"][name] for name in LABELS})
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'manifest.json'} is damaged ({error} is missing): {REMEDY}") from None
    return PreparedLabels(manifest, {split: np.load(folder / f"{split}_labels.npy") for split in SPLITS})


def has_features(source: str) -> bool:
    """Whether a registered source has features in place of images. Raises UserError for an unknown one."""
    return issubclass(SOURCES.get(source), FeatureSource)


def numbered(
    labels: dict[str, np.ndarray], names: list[str] | None, where: dict[str, str]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of the classes, and the labels (N,) int64 of each split as indices into them.

    labels: integers or texts per split. names: the classes in order, or None to sort the labels, integers by
    value and texts by code point. where: names of the arrays, for messages. Raises UserError for a label that
    is negative or has no name, for both kinds of labels at once, and for a class that a split lacks.
    """
    is_text = {split: values.dtype.kind == "U" for split, values in labels.items()}
    if len(set(is_text.values())) > 1:
        raise UserError(
            f"{' and '.join(where.values())} are integers in one split and names in the other: use one kind"
        )
    for split, values in labels.items():
        if not is_text[split] and values.min() < 0:
            raise UserError(f"{where[split]} has the label {values.min()}: labels start at 0")
    present = {split: np.unique(values) for split, values in labels.items()}
    if names is None or is_text["train"]:
        known: list = sorted({value for values in present.values() for value in values.tolist()})
        classes = [str(value) for value in known] if names is None else names
        known = known if names is None else list(names)
    else:
        known, classes = list(range(len(names))), names
    place = {value: label for label, value in enumerate(known)}
    numbers = {}
    for split, values in labels.items():
        unknown = [value for value in present[split].tolist() if value not in place]
        if unknown:
            raise UserError(
                f"{where[split]} has the label {unknown[0]!r}, which is none of the {len(classes)} names of "
                "classes: correct one of them"
            )
        codes = np.array([place[value] for value in present[split].tolist()], dtype=np.int64)
        numbers[split] = codes[np.searchsorted(present[split], values)]
        absent = Counter(range(len(classes))) - Counter(codes.tolist())
        if absent:
            raise UserError(
                f"{where[split]} has no sample of class {classes[min(absent)]!r}: every class needs some in "
                "both splits"
            )
    return classes, numbers
