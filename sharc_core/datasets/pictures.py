"""Image files: decoded by a pool of threads, brought to one size, written to their rows."""

import io
import os
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.base import SPLITS, Progress, Source, batched, writing
from sharc_core.errors import UserError

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
# What those hold. Pillow knows many more by their content, whatever their name, and hands one to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
PIXEL_LIMIT = 64 * 2**20  # of one image: beyond it a decompression bomb, not a photograph
BATCH = 256

Place = dict[Hashable, tuple[str, int, int]]  # an image's key -> (split, row, label)


def read_images(container: Container, names: list[str]) -> Iterator[tuple[str, Image.Image]]:
    """(name, image) of the wanted files, in the order in which the container gives them."""
    return decode_all(container.read(names), container.path)


def decode_all(
    files: Iterable[tuple[Hashable, bytes]], where: Path
) -> Iterator[tuple[Hashable, Image.Image]]:
    """(key, image) of (key, content) pairs, in their order; Pillow's decoders run in parallel."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for batch in batched(files, BATCH):
            yield from threads.map(lambda item: (item[0], decode(item[1], f"{where}: {item[0]}")), batch)


def decode(content: bytes, name: str) -> Image.Image:
    """An image file as RGB. Raises UserError naming it when it is damaged, or too large to be one."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise UserError(f"{name} is {image.width} x {image.height} pixels: too large, refused")
            if image.mode.startswith("I;16") or image.mode == "I":
                levels = np.asarray(image).astype(np.float64) / 257
                return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{name} is not a readable image ({problem}): replace or remove it") from None


def fit(image: Image.Image, side: int) -> np.ndarray:
    """(side, side, 3) uint8: shorter side scaled to `side`, the centre cut out."""
    if image.size != (side, side):
        scale = side / min(image.size)
        size = [max(side, round(edge * scale)) for edge in image.size]
        image = image.resize(size, Image.BILINEAR)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image)


def rows(classes: dict[str, dict[int, list[Hashable]]]) -> Place:
    """Where images go. classes: by split and label, keys in their order: class after class, each in order."""
    return {
        key: (split, row, label)
        for split, labels in classes.items()
        for row, (label, key) in enumerate((label, key) for label, keys in labels.items() for key in keys)
    }


def write_images(
    source: Source,
    out: Path,
    place: Place,
    side: int,
    images: Iterable[tuple[Hashable, Image.Image]],
    progress: Progress = None,
) -> None:
    """Write the prepared folder: every image of `place` at its row, in whatever order they come."""
    where = getattr(source.settings, "path", None) or source.name
    counts = {split: sum(place_[0] == split for place_ in place.values()) for split in SPLITS}
    left, total = dict(place), len(place)
    step = max(1, total // 10)
    with writing(source, out, counts, (side, side)) as writer:
        for done, (key, image) in enumerate(images, 1):
            if key not in left:  # popped below: a row written twice would leave another one black
                raise UserError(f"{where}: {key} was read twice: pack the files anew")
            split, row, label = left.pop(key)
            writer.images[split][row] = fit(image, side)
            writer.labels[split][row] = label
            writer.filled[split] += 1
            if progress and (done % step == 0 or done == total):
                progress(f"decoded {done:,} of {total:,} images")
        if left:
            gone = min(map(str, left), key=natural)
            raise UserError(f"{where}: {gone} is gone: the files changed while they were read, run again")
