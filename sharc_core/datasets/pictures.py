"""Decode image files in a pool of threads, resize them and write them to their rows."""

import io
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from sharc_core.common.errors import UserError
from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.base import SPLITS, Progress, Source, writing
from sharc_core.datasets.pixels import upright_rgb
from sharc_core.datasets.threads import in_order

EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".ppm",
    ".pgm",
    ".tif",
    ".tiff",
)
# The formats of these files. Pillow would accept many more by content and pass one of them to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
PIXEL_LIMIT = 64 * 2**20  # pixels of one image; a larger one is treated as a decompression bomb

Key = TypeVar("Key", bound=Hashable)  # identifies an image of a source


class Examined(NamedTuple):
    """The facts about an image that a check needs. width, height: pixels, upright."""

    name: str
    width: int
    height: int
    has_frames: bool
    checksum: str


def read_images(
    container: Container, names: list[str], checksums: dict[str, str] | None = None
) -> Iterator[tuple[str, Image.Image]]:
    """Yield (name, image) of the named files, in the container's order.

    checksums: filled with the files' checksums if given. Raises UserError for a file that is not an image.
    """

    def decoded(file: tuple[str, bytes]) -> tuple[str, Image.Image]:
        name, content = file
        if checksums is not None:
            checksums[name] = container.checksum(content)
        return name, decode(content, f"{container.path}: {name}")

    return in_order(decoded, container.read(names), _threads())


def examine_images(container: Container, names: list[str]) -> Iterator[Examined]:
    """Decode each named file and yield its facts. Raises UserError for a file that is not an image."""

    def examined(file: tuple[str, bytes]) -> Examined:
        name, content = file
        image = decode(content, f"{container.path}: {name}")
        has_frames = "frames" in image.info
        return Examined(name, image.width, image.height, has_frames, container.checksum(content))

    return in_order(examined, container.read(names), _threads())


def decode_all(files: Iterable[tuple[Key, bytes]], where: Path) -> Iterator[tuple[Key, Image.Image]]:
    """Decode (key, content) pairs in parallel; yield (key, image) in their order. Raises as `decode` does."""
    return in_order(lambda item: (item[0], decode(item[1], f"{where}: {item[0]}")), files, _threads())


def _threads() -> int:
    return os.cpu_count() or 1


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image file to upright RGB. Raises UserError naming a file that is unreadable or too large."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise UserError(f"{name} is {image.width} x {image.height} pixels: too large, refused")
            return upright_rgb(image, name)
    except UserError:
        raise
    except UnidentifiedImageError:
        problem = "neither JPEG, PNG, BMP, GIF, WebP, PPM nor TIFF, or of an unknown pixel format"
    except MemoryError:
        raise
    except Exception as error:  # on a damaged file, Pillow's decoders raise many kinds of exceptions
        problem = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{name} is not a readable image ({problem}): replace or remove it")


def fit(image: Image.Image, side: int) -> np.ndarray:
    """Scale the shorter side to `side` and cut out the centre. Return (side, side, 3) uint8."""
    if image.size != (side, side):
        scale = side / min(image.size)
        size = [max(side, round(edge * scale)) for edge in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image)


def rows(classes: Mapping[str, Mapping[int, Sequence[Key]]]) -> dict[Key, tuple[str, int, int]]:
    """Map each key to (split, row, label): class by class, each in the order of its keys."""
    return {
        key: (split, row, label)
        for split, labels in classes.items()
        for row, (label, key) in enumerate((label, key) for label, keys in labels.items() for key in keys)
    }


def write_images(
    source: Source,
    out: Path,
    place: Mapping[Key, tuple[str, int, int]],
    side: int,
    images: Iterable[tuple[Key, Image.Image]],
    progress: Progress = None,
) -> None:
    """Write the prepared folder `out`, with every image of `place` at its row.

    place: maps a key to (split, row, label). images: (key, image) in any order. Raises UserError when an
    image of `place` is missing or comes twice.
    """
    where = getattr(source.settings, "path", None) or source.name
    counts = {split: sum(place_[0] == split for place_ in place.values()) for split in SPLITS}
    left, total = dict(place), len(place)
    step = max(1, total // 10)
    with writing(source, out, counts, (side, side)) as writer:
        for done, (key, image) in enumerate(images, 1):
            if key not in left:  # popped below; a row written twice would leave another row black
                raise UserError(f"{where}: {key} was read twice: repack the files")
            split, row, label = left.pop(key)
            writer.images[split][row] = fit(image, side)
            writer.labels[split][row] = label
            writer.filled[split] += 1
            if progress and (done % step == 0 or done == total):
                progress(f"decoded {done:,} of {total:,} images")
        if left:
            missing = min(map(str, left), key=natural)
            raise UserError(f"{where}: {missing} is gone: the files changed while they were read, run again")
