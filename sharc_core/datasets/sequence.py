"""Several data sets one after the other as one, for a stream that goes through all of them.

Labels are joined: those of the first part, then those of the second, and so on. The name of a class is that
of its part and its own, as in `digits/0`. Which parts or classes make a task is up to the stream.
"""

import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field, ValidationError, field_validator

from sharc_core.common.errors import UserError
from sharc_core.common.joined_names import joined_name
from sharc_core.common.settings import Name
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.common.validation_messages import explain
from sharc_core.datasets.base import SOURCES, SPLITS, PreparedData, Source, open_prepared, writing
from sharc_core.datasets.feature_source import FeatureSource

BATCH = 1024  # images that are resized at a time


class Part(BaseSettings):
    """What a block of `parts` has besides the keys of its source. name: of the part, in names of classes."""

    model_config = {"extra": "allow"}

    source: str
    name: Name | None = None

    @property
    def called(self) -> str:
        """The name of the part."""
        return self.name or self.source


@SOURCES.register("sequence")
class Sequence(Source):
    """The images of several sources at one size, with joined labels."""

    class Settings(BaseSettings):
        """parts: blocks of sources, in the order of the labels. size: pixels per side; by default those
        of the largest part. Images are scaled to `size` by their longer side (bilinear) and centred on black.
        """

        parts: list[Part] = Field(min_length=2)
        size: int | None = Field(default=None, ge=8, le=4096)

        @field_validator("parts")
        @classmethod
        def _distinct(cls, parts: list[Part]) -> list[Part]:
            names = [part.called for part in parts]
            if repeated := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"two parts are called {repeated[0]!r}: give one of them another name")
            if any(part.source == "sequence" for part in parts):
                raise ValueError("a part cannot be a sequence: list its parts here")
            return parts

    def __init__(self, settings: BaseSettings, data_dir: Path, mirror: Path | None = None):
        super().__init__(settings, data_dir, mirror)
        self.parts: list[Source] = [
            self._opened(number, part) for number, part in enumerate(self.settings.parts)
        ]

    def _opened(self, number: int, part: Part) -> Source:
        """Create the source of a part. Raises UserError for settings that it does not have."""
        try:
            kind = SOURCES.get(part.source)
        except UserError as error:
            raise UserError(f"parts.{number}: {error}") from None
        if issubclass(kind, FeatureSource):
            raise UserError(f"parts.{number}: source {part.source} has features, not images: take it out")
        try:
            settings = kind.Settings.model_validate(part.model_extra)
        except ValidationError as error:
            also = [*Part.model_fields]
            raise UserError(explain(error, kind.Settings, f"parts.{number}", also)) from None
        return kind(settings, self.data_dir, self.mirror)

    @cached_property
    def _names(self) -> list[str]:
        return [part.called for part in self.settings.parts]

    def class_names(self) -> list[str]:
        """Return the names of all parts' classes, each after the name of its part."""
        pairs = zip(self._names, self.parts, strict=True)
        return [joined_name(name, own) for name, part in pairs for own in part.class_names()]

    def check(self, progress=None) -> None:
        """Raise UserError for a part that cannot be prepared."""
        for name, part in zip(self._names, self.parts, strict=True):
            try:
                part.check(progress)
            except UserError as error:
                raise type(error)(f"part {name}: {error}") from None

    def identity(self) -> dict[str, Any]:
        """Return the size, and name and identity of each part."""
        parts = [[name, part.identity()] for name, part in zip(self._names, self.parts, strict=True)]
        return {"source": self.name, "settings": {"size": self.settings.size}, "parts": parts}

    def counts(self) -> dict[str, int] | None:
        """Return the sums over the parts; None if one is not known."""
        counts = [part.counts() for part in self.parts]
        known = [count for count in counts if count is not None]
        return (
            {split: sum(count[split] for count in known) for split in SPLITS}
            if len(known) == len(counts)
            else None
        )

    def content_ids(self) -> set[str]:
        """Return the identifiers of all parts."""
        return set().union(*(part.content_ids() for part in self.parts))

    def prepare(self, out, progress=None) -> None:
        """Prepare the parts in a temporary folder, and write their images at one size."""
        out = Path(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.parts.") as folder:
            data = []
            for number, part in enumerate(self.parts):
                part.prepare(Path(folder) / str(number), progress)
                data.append(open_prepared(Path(folder) / str(number)))
            size = self.settings.size or max(max(one.train_images.shape[1:3]) for one in data)
            counts = {split: sum(len(_arrays(one, split)[1]) for one in data) for split in SPLITS}
            with writing(self, out, counts, (size, size)) as writer:
                first = 0
                for one in data:
                    for split in SPLITS:
                        for images, labels in _batches(*_arrays(one, split)):
                            writer.add(split, resized(images, size), labels + first)
                    first += len(one.classes)


def _arrays(data: PreparedData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, H, W, 3) and labels (N,) of a split."""
    return getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")


def _batches(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(labels), BATCH):
        yield images[start : start + BATCH], labels[start : start + BATCH]


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Return images (n, H, W, 3) uint8 as (n, size, size, 3), scaled by the longer side, centred on black."""
    height, width = images.shape[1:3]
    if height == width == size:
        return images
    longer = max(height, width)
    shape = [max(1, round(side * size / longer)) for side in (height, width)]
    top, left = ((size - side) // 2 for side in shape)
    square = np.zeros((len(images), size, size, 3), np.uint8)
    for image, place in zip(images, square, strict=True):
        scaled = Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        place[top : top + shape[0], left : left + shape[1]] = np.asarray(scaled)
    return square
