"""Your own images: a folder, zip or tar of <train|test>/<class>/<image>."""

import time
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image
from pydantic import Field

from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.base import SOURCES, SPLITS, Source
from sharc_core.datasets.pictures import EXTENSIONS, read_images, rows, write_images
from sharc_core.errors import UserError
from sharc_core.files import read_json, write_json
from sharc_core.settings import Settings as BaseSettings

EXPECTED = f"<train|test>/<class>/<image> with an extension of {', '.join(EXTENSIONS)}"
MIXED_SIDE = 224  # side to which images of different sizes are brought when none is asked for
SIDE_LIMIT = 4096  # of the prepared images: 48 MiB each, above it a slip of the keyboard
SECONDS_BETWEEN_LINES = 5


@SOURCES.register("image_folder")
class ImageFolder(Source):
    """Classes are folder names in natural order; images in natural order within a class."""

    class Settings(BaseSettings):
        """path: folder or archive. size: pixels per side (shorter side scaled, centre cut out).

        Without a size: the one that all images share, or 224 when they differ or are not square.
        """

        path: str = Field(min_length=1)
        size: int | None = Field(default=None, ge=1, le=SIDE_LIMIT)

    def __init__(self, settings, data_dir, mirror=None):
        super().__init__(settings, data_dir, mirror)
        self._index: dict[str, dict[str, list[str]]] | None = None
        self._left_out: list[str] = []

    @cached_property
    def container(self) -> Container:
        """The folder or archive, listed once: a fresh source sees changes."""
        return Container(self.settings.path)

    @cached_property
    def fingerprint(self) -> str:
        """The files' fingerprint, taken once: it looks at every one, and identity() is asked for often."""
        return self.container.fingerprint()

    def index(self) -> dict[str, dict[str, list[str]]]:
        """Image names by split and class, all in natural order. Raises UserError for a bad layout."""
        if self._index is None:
            self._index = self._read_index()
        return self._index

    def left_out(self) -> list[str]:
        """Files below train/ and test/ that are not taken: at a wrong depth, or of an unknown extension."""
        self.index()
        return self._left_out

    def _read_index(self) -> dict[str, dict[str, list[str]]]:
        path, names = self.settings.path, self.container.names()
        root = self._root(names)
        index: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
        left_out = []
        for name in names:
            parts = PurePosixPath(name).parts
            if _is_image(parts) and parts[:-3] == root:
                index[parts[-3]].setdefault(parts[-2], []).append(name)
            else:
                start = len(root) if parts[: len(root)] == root else 0
                below = [depth for depth in range(start, len(parts) - 1) if parts[depth] in SPLITS]
                if below:
                    left_out.append((name, parts[: below[0] + 2]))
        left_out.sort(key=lambda item: natural(item[0]))
        self._left_out = [name for name, _ in left_out]
        taken = {(*root, split, name) for split, classes in index.items() for name in classes}
        for name, folder in left_out:
            # deeper than below one folder there is no layout of ours; straight in train/ there is no class
            is_class = len(folder) <= 3 and len(PurePosixPath(name).parts) > len(folder)
            if is_class and folder not in taken:
                raise UserError(
                    f"{path}: no file of the class folder {'/'.join(folder)} can be taken, e.g. {name}: "
                    f"expected {EXPECTED}; move or convert the files, or remove the folder"
                )
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

    def _root(self, names: list[str]) -> tuple[str, ...]:
        """The one folder that train/ and test/ lie in: () for the top. Raises UserError for several."""
        paths = [PurePosixPath(name).parts for name in names]
        roots = {parts[:-3] for parts in paths if len(parts) <= 4 and _is_image(parts)}
        if () in roots:  # then train/test/sub/1.png lies too deep in a class "test", not below a root "train"
            roots -= {(split,) for split in SPLITS}
        if len(roots) > 1:
            first, second = ("/".join((*r, "")) or "its top" for r in sorted(roots)[:2])
            raise UserError(
                f"{self.settings.path} holds several data sets, in {first} and in {second}: "
                "keep one train/ and one test/ folder, side by side"
            )
        return roots.pop() if roots else ()

    def class_names(self) -> list[str]:
        """Folder names in natural order."""
        return list(self.index()["train"])

    def identity(self) -> dict:
        """Settings, and a fingerprint (sizes and times) of the files."""
        return super().identity() | {"fingerprint": self.fingerprint}

    def counts(self) -> dict[str, int]:
        """As many as files are taken."""
        return {split: sum(map(len, classes.values())) for split, classes in self.index().items()}

    def check(self, progress=None) -> None:
        """Layout and every single image, decoded; remembered under data_dir until the files change."""
        left_out = self.left_out()
        if left_out and progress:
            several = f"{len(left_out):,} files were" if len(left_out) > 1 else "1 file was"
            progress(f"{self.settings.path}: {several} left out, e.g. {left_out[0]} (expected {EXPECTED})")
        if not self._note.exists():
            self._check_all(self._note, progress)
        self._side()

    @property
    def _note(self) -> Path:
        """What the check found."""
        return self.data_dir / "checked" / f"{self.fingerprint}.json"

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
        if self.settings.size is None:
            self.check()
        return self._side()

    def _side(self) -> int:
        if self.settings.size is not None:
            return self.settings.size
        try:
            sizes = list(read_json(self._note)["sizes"])
            width, height = map(int, sizes[0].split("x"))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UserError(f"{self._note} is damaged: delete it and run again") from None
        if len(sizes) > 1 or width != height:
            return MIXED_SIDE
        if width > SIDE_LIMIT:
            raise UserError(
                f"{self.settings.path}: all images are {width} x {height} pixels, more than is prepared by "
                f"default: set size, {SIDE_LIMIT} at most"
            )
        return width

    def _images(self) -> Iterator[tuple[str, Image.Image]]:
        """Every image, decoded."""
        names = [name for c in self.index().values() for files in c.values() for name in files]
        return read_images(self.container, names)

    def prepare(self, out, progress=None) -> None:
        """Decode, bring to one size, and write; bounded memory whatever the number of images."""
        side, index = self.side(), self.index()
        labels = {name: label for label, name in enumerate(self.class_names())}
        place = rows(
            {split: {labels[name]: files for name, files in found.items()} for split, found in index.items()}
        )
        write_images(self, out, place, side, self._images(), progress)


def _is_image(parts: tuple[str, ...]) -> bool:
    """Whether the path ends as <train|test>/<class>/<image>."""
    return len(parts) >= 3 and parts[-3] in SPLITS and PurePosixPath(parts[-1]).suffix.lower() in EXTENSIONS
