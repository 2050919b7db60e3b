"""The user's images: a folder, zip or tar of <train|test>/<class>/<image>, or of <class>/<image>."""

import time
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated

from PIL import Image
from pydantic import AfterValidator, Field, model_validator

from sharc_core.common.errors import Missing, UserError, one_line
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.datasets.archives import Container
from sharc_core.datasets.base import SOURCES, Source
from sharc_core.datasets.contents import Note, checksums, content_hash
from sharc_core.datasets.file_names import composed
from sharc_core.datasets.image_layout import TRAIN, ClassReader, Layout, SplitReader
from sharc_core.datasets.pictures import examine_images, read_images, rows, write_images

MIXED_SIDE = 224  # default side for images of different sizes
SIDE_LIMIT = 4096  # of the prepared images (48 MiB each); a larger value is probably a typing error
SECONDS_BETWEEN_LINES = 5
CHECK = 1  # version of the check; cached facts of another version are ignored


@SOURCES.register("image_folder")
class ImageFolder(Source):
    """Images of class folders. Classes, and the images of a class, are in natural order of their names."""

    class Settings(BaseSettings):
        """path: folder or archive. size: pixels per side (shorter side scaled, centre cut out).

        The default size is the size that all images share, or 224 when they differ or are not square.
        test_split: name of the folder of test images. test_fraction: share of every class that is held
        out if there is no such folder; split_seed selects these images.
        """

        path: str = Field(min_length=1)
        size: int | None = Field(default=None, ge=1, le=SIDE_LIMIT)
        test_split: Annotated[str, AfterValidator(composed)] = Field(
            default="test", pattern=r"^[^/\\.][^/\\]*$", max_length=255
        )
        test_fraction: float | None = Field(default=None, gt=0, lt=1)
        split_seed: int = Field(default=0, ge=0, le=2**63 - 1)

        @model_validator(mode="after")
        def _is_one_split(self):
            if self.test_split == TRAIN:
                raise ValueError(
                    f"test_split is {TRAIN}, the folder of the training images: name another one"
                )
            if self.test_fraction is not None and self.test_split != "test":
                raise ValueError("test_split names a folder, test_fraction needs none: drop one of them")
            if self.test_fraction is None and self.split_seed:
                raise ValueError("split_seed has no effect without test_fraction: set it, or drop split_seed")
            return self

    @cached_property
    def container(self) -> Container:
        """Return the folder or archive. It is listed once; a new source sees later changes."""
        return Container(self.settings.path)

    @cached_property
    def layout(self) -> Layout:
        """Return the images by split and class. Raises UserError for a bad layout."""
        s = self.settings
        if s.test_fraction is not None:
            return ClassReader(s.path, self.container, s.test_fraction, s.split_seed).read()
        return SplitReader(s.path, self.container, s.test_split).read()

    def index(self) -> dict[str, dict[str, list[str]]]:
        """Return image names by split and class, in natural order. Raises UserError for a bad layout."""
        return self.layout.index

    def left_out(self) -> list[str]:
        """Return the files of the data set's folders with a wrong depth, kind or extension."""
        return list(self.layout.left_out)

    def class_names(self) -> list[str]:
        """Return the folder names in natural order."""
        return list(self.index()["train"])

    def identity(self) -> dict:
        """Return settings and content hash, independent of the files' location and dates."""
        settings = self.settings.model_dump(mode="json", exclude={"path"})
        return {"source": self.name, "settings": settings, "content": self._content()}

    def _content(self) -> str | None:
        """Return the hash of the images and their paths in the data set. Reads them if the check has not.

        Returns None for missing images, so that a dry run can name what cannot be made yet.
        """
        try:
            note = self._note
        except Missing:
            return None
        if not isinstance(note.facts.get("content"), str):
            names = self.layout.names
            note.add(content=content_hash(names, checksums(self.container, names)))
        return note.facts["content"]

    @cached_property
    def _note(self) -> Note:
        """Return the cache of the check's results. A split by another seed has the same images and cache."""
        kind = "classes" if self.settings.test_fraction is not None else self.settings.test_split
        return Note(self.data_dir, "images", CHECK, self.container.fingerprint(), kind)

    def counts(self) -> dict[str, int]:
        """Return the number of image files per split."""
        return {split: sum(map(len, classes.values())) for split, classes in self.index().items()}

    def check(self, progress=None) -> None:
        """Check the layout and decode every image. The result is cached in data_dir until the files change.

        Raises UserError for a bad layout, an unreadable image, or images too large to prepare by default.
        """
        if progress:
            self._report_left_out(progress)
        if not self._is_checked():
            self._check_all(progress)
        if progress and (count := self._note.facts["frames"]):
            images_hold = "images hold" if count > 1 else "image holds"
            line = f"{count:,} {images_hold} several frames, of which the first is taken"
            progress(one_line(f"{self.settings.path}: {line}, e.g. {self._note.facts['example']}"))
        self._side()

    def _report_left_out(self, progress) -> None:
        """Report one line for every reason, with one example."""
        examples: dict[str, list[str]] = {}
        for name, why in self.layout.left_out.items():
            examples.setdefault(why, []).append(name)
        for why, names in examples.items():
            files_were = f"{len(names):,} files were" if len(names) > 1 else "1 file was"
            progress(one_line(f"{self.settings.path}: {files_were} left out, e.g. {names[0]} ({why})"))

    def _is_checked(self) -> bool:
        """Return whether the cache holds the check's results in the right form. A damaged cache is redone."""
        facts = self._note.facts
        try:
            sizes = [list(map(int, size.split("x"))) for size in facts["sizes"]]
            is_complete = isinstance(facts["content"], str) and isinstance(facts["frames"], int)
            return is_complete and bool(sizes) and all(len(size) == 2 for size in sizes)
        except (KeyError, TypeError, ValueError, AttributeError):
            return False

    def _check_all(self, progress) -> None:
        layout = self.layout
        sizes: Counter[str] = Counter()
        sums: dict[str, str] = {}
        frames: list[str] = []
        total = len(layout.files)
        began = reported = time.perf_counter()
        for done, image in enumerate(examine_images(self.container, layout.files), 1):
            sizes[f"{image.width}x{image.height}"] += 1
            sums[image.name] = image.checksum
            if image.has_frames:
                frames.append(image.name)
            now = time.perf_counter()
            if progress and now - reported > SECONDS_BETWEEN_LINES:
                reported, left = now, (now - began) * (total - done) / done
                progress(f"checked {done:,} of {total:,} images of {self.settings.path}, {left:.0f} s left")
        facts = {"sizes": sizes, "frames": len(frames), "example": min(frames, default=None)}
        self._note.add(content=content_hash(layout.names, sums), **facts)

    def side(self) -> int:
        """Return the pixels per side of the prepared images. Raises UserError as `check` does."""
        if self.settings.size is None:
            self.check()
        return self._side()

    def _side(self) -> int:
        if self.settings.size is not None:
            return self.settings.size
        sizes = list(self._note.facts["sizes"])
        width, height = map(int, sizes[0].split("x"))
        if len(sizes) > 1 or width != height:
            return MIXED_SIDE
        if width > SIDE_LIMIT:
            raise UserError(
                f"{self.settings.path}: all images are {width} x {height} pixels, more than is prepared by "
                f"default: set size, {SIDE_LIMIT} at most"
            )
        return width

    def prepare(self, out, progress=None) -> None:
        """Decode the images, resize and write them. Memory does not grow with the number of images."""
        side, index = self.side(), self.index()
        labels = {name: label for label, name in enumerate(self.class_names())}
        place = rows(
            {
                split: {labels[name]: files for name, files in classes.items()}
                for split, classes in index.items()
            }
        )
        write_images(self, out, place, side, self._images(), progress)

    def _images(self) -> Iterator[tuple[str, Image.Image]]:
        """Yield every image, decoded. Raises UserError at the end if the content hash changed meanwhile."""
        sums: dict[str, str] = {}
        yield from read_images(self.container, self.layout.files, sums)
        if set(sums) == set(self.layout.names) and content_hash(self.layout.names, sums) != self._content():
            raise UserError(f"{self.settings.path} was changed while it was read: run again")
