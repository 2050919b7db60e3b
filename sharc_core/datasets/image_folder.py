"""Your own images: a folder, zip or tar of <train|test>/<class>/<image>."""

import io
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.base import SOURCES, SPLITS, Source, batched, writing
from sharc_core.errors import UserError
from sharc_core.files import read_json, write_json
from sharc_core.settings import Settings as BaseSettings

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
MIXED_SIDE = 224  # side to which images of different sizes are brought when none is asked for
BATCH = 256
SECONDS_BETWEEN_LINES = 5
PIXEL_LIMIT = 64 * 2**20  # of one image: beyond it a decompression bomb, not a photograph


@SOURCES.register("image_folder")
class ImageFolder(Source):
    """Classes are folder names in natural order; images in natural order within a class."""

    class Settings(BaseSettings):
        """path: folder or archive. size: pixels per side (shorter side scaled, centre cut out).

        Without a size: the one that all images share, or 224 when they differ or are not square.
        """

        path: str = Field(min_length=1)
        size: int | None = Field(default=None, ge=1)

    def __init__(self, settings, data_dir, mirror=None):
        super().__init__(settings, data_dir, mirror)
        self._index: dict[str, dict[str, list[str]]] | None = None

    @property
    def container(self) -> Container:
        """The folder or archive, opened anew."""
        return Container(self.settings.path)

    def index(self) -> dict[str, dict[str, list[str]]]:
        """Image names by split and class, all in natural order. Raises UserError for a bad layout."""
        if self._index is None:
            self._index = self._read_index()
        return self._index

    def _read_index(self) -> dict[str, dict[str, list[str]]]:
        path = self.settings.path
        index: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
        for name in self.container.names():
            parts = PurePosixPath(name).parts
            if PurePosixPath(name).suffix.lower() not in EXTENSIONS:
                continue
            # <split>/<class>/<image>, possibly below one common folder
            for depth in (0, 1):
                if len(parts) == depth + 3 and parts[depth] in index:
                    index[parts[depth]].setdefault(parts[depth + 1], []).append(name)
                    break
        for split, other in (SPLITS, SPLITS[::-1]):
            if not index[split]:
                raise UserError(f"{path} has no {split} images: expected {split}/<class>/<image>")
            lonely = sorted(set(index[other]) - set(index[split]), key=natural)
            if lonely:
                raise UserError(
                    f"{path}: class {lonely[0]!r} has no {split} image: add some or remove the class"
                )
        if len(index["train"]) < 2:
            raise UserError(f"{path} has only one class; a stream needs two at least")
        return {
            split: {
                name: sorted(files, key=natural)
                for name, files in sorted(c.items(), key=lambda i: natural(i[0]))
            }
            for split, c in index.items()
        }

    def class_names(self) -> list[str]:
        """Folder names in natural order."""
        return list(self.index()["train"])

    def identity(self) -> dict:
        """Settings, and a fingerprint (sizes and times) of the files."""
        return super().identity() | {"fingerprint": self.container.fingerprint()}

    def check(self, progress=None) -> None:
        """Layout and every single image, decoded; remembered under data_dir until the files change."""
        note = self.data_dir / "checked" / f"{self.container.fingerprint()}.json"
        if not note.exists():
            self._check_all(note, progress)

    def _check_all(self, note: Path, progress) -> None:
        sizes: Counter[str] = Counter()
        total = sum(len(files) for classes in self.index().values() for files in classes.values())
        began = said = time.perf_counter()
        for done, (_, image) in enumerate(self._images(), 1):
            sizes[f"{image.width}x{image.height}"] += 1
            now = time.perf_counter()
            if progress and now - said > SECONDS_BETWEEN_LINES:
                said, left = now, (now - began) * (total - done) / done
                progress(f"checked {done:,} of {total:,} images of {self.settings.path}, {left:.0f} s left")
        write_json(note, {"path": self.settings.path, "sizes": sizes})

    def side(self) -> int:
        """Pixels per side of the prepared images."""
        if self.settings.size is not None:
            return self.settings.size
        self.check()
        note = self.data_dir / "checked" / f"{self.container.fingerprint()}.json"
        sizes = list(read_json(note)["sizes"])
        width, height = map(int, sizes[0].split("x"))
        return width if len(sizes) == 1 and width == height else MIXED_SIDE

    def _images(self) -> Iterator[tuple[str, Image.Image]]:
        """Every image, decoded by a pool of threads (Pillow's decoders run in parallel)."""
        names = [name for c in self.index().values() for files in c.values() for name in files]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for batch in batched(self.container.read(names), BATCH):
                yield from threads.map(lambda item: (item[0], self._decode(*item)), batch)

    def _decode(self, name: str, content: bytes) -> Image.Image:
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > PIXEL_LIMIT:
                    size = f"{image.width} x {image.height}"
                    raise UserError(f"{self.settings.path}: {name} is {size} pixels: too large, refused")
                if image.mode.startswith("I;16") or image.mode == "I":
                    levels = np.asarray(image).astype(np.float64) / 257
                    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
                return image.convert("RGB")
        except (
            OSError,
            SyntaxError,
            ValueError,
            UnidentifiedImageError,
            Image.DecompressionBombError,
        ) as error:
            problem = " ".join(str(error).split())
            raise UserError(
                f"{self.settings.path}: {name} is not a readable image ({problem}): replace or remove it"
            ) from None

    def prepare(self, out, progress=None) -> None:
        """Decode, bring to one size, and write; bounded memory whatever the number of images."""
        side, index = self.side(), self.index()
        labels = {name: label for label, name in enumerate(self.class_names())}
        place = {
            name: (split, row, label)
            for split, classes in index.items()
            for row, (label, name) in enumerate((labels[c], n) for c, files in classes.items() for n in files)
        }
        counts = {split: sum(map(len, classes.values())) for split, classes in index.items()}
        step = max(1, len(place) // 10)
        with writing(self, out, counts, (side, side)) as writer:
            for done, (name, image) in enumerate(self._images(), 1):
                split, row, label = place[name]
                writer.images[split][row] = fit(image, side)
                writer.labels[split][row] = label
                writer.filled[split] += 1
                if progress and (done % step == 0 or done == len(place)):
                    progress(f"decoded {done:,} of {len(place):,} images")


def fit(image: Image.Image, side: int) -> np.ndarray:
    """(side, side, 3) uint8: shorter side scaled to `side`, the centre cut out."""
    if image.size != (side, side):
        scale = side / min(image.size)
        size = [max(side, round(edge * scale)) for edge in image.size]
        image = image.resize(size, Image.BILINEAR)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image)
