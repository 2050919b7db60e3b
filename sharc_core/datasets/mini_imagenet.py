"""mini-ImageNet: 100 ImageNet classes of 600 images at 84 pixels. There is no official download.

It goes round as pickles, as image files and as parquet; mini_imagenet_forms.py reads all three.
"""

from functools import cached_property
from pathlib import Path

from pydantic import Field

from sharc_core.common.errors import Missing, UserError
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.datasets.archives import TAR_ENDINGS
from sharc_core.datasets.base import SOURCES, SPLITS, Source
from sharc_core.datasets.download import downloads, require_space
from sharc_core.datasets.mini_imagenet_forms import Form, form_of
from sharc_core.datasets.pictures import rows, write_images
from sharc_core.datasets.wnids import MINI_IMAGENET

NAME = "mini-imagenet"
ENDINGS = ("", ".zip", *TAR_ENDINGS, ".parquet")  # a folder's first


@SOURCES.register("mini_imagenet")
class MiniImageNet(Source):
    """Classes are WordNet numbers in sorted order. Of each, the first images train and the last test.

    First and last are in the file's own order for pickles and parquet, and in natural order of the names
    for image files; the three class splits (train, val, test) are merged in this order.
    """

    class Settings(BaseSettings):
        """path: what to read; without it, mini-imagenet in the mirror or in <data_dir>/downloads.

        size: pixels per side. train_per_class, test_per_class: the split; together all images of a class.
        """

        path: str | None = Field(default=None, min_length=1)
        size: int = Field(default=84, ge=8, le=1024)
        train_per_class: int = Field(default=500, ge=1)
        test_per_class: int = Field(default=100, ge=1)

    def class_names(self) -> list[str]:
        """WordNet numbers, sorted."""
        return list(MINI_IMAGENET)

    def counts(self) -> dict[str, int]:
        """As many of each class as were asked for."""
        s = self.settings
        return {
            "train": len(MINI_IMAGENET) * s.train_per_class,
            "test": len(MINI_IMAGENET) * s.test_per_class,
        }

    def content_ids(self) -> set[str]:
        """WordNet numbers, which other ImageNet subsets have too."""
        return {f"wnid:{wnid}" for wnid in MINI_IMAGENET}

    def path(self) -> Path:
        """What is read. Raises Missing when there is nothing."""
        if self.settings.path is not None:
            path = Path(self.settings.path)
            if not path.exists():
                raise Missing(f"{path} does not exist: give mini-ImageNet's pickles, images or parquet files")
            return path
        folders = [folder for folder in (self.mirror, downloads(self.data_dir)) if folder is not None]
        for folder in folders:
            for ending in ENDINGS:
                if (folder / (NAME + ending)).exists():
                    return folder / (NAME + ending)
        raise Missing(
            "mini-ImageNet (about 1.3 GB as pickles) has no official download: put a folder "
            f"{' or '.join(str(folder / NAME) for folder in folders)} there, with "
            "mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl in it, or set path"
        )

    @cached_property
    def _content(self) -> str | None:
        """Hash of the files; None where they are missing: a dry run may name what cannot be made yet."""
        try:
            return form_of(self.path()).content(self.data_dir)
        except Missing:
            return None

    def identity(self) -> dict:
        """Settings and content. Neither where the files lie nor how old they are is part of it."""
        settings = self.settings.model_dump(mode="json", exclude={"path"})
        return {"source": self.name, "settings": settings, "content": self._content}

    def check(self, progress=None) -> None:
        """Whether the files are there and, where that can be seen without reading them, enough."""
        form = form_of(self.path())
        if form.is_cheap:
            self._classes(form)

    def prepare(self, out, progress=None) -> None:
        """Read, split and write."""
        form = form_of(self.path())
        side, per_class = self.settings.size, self.settings.train_per_class + self.settings.test_per_class
        needed = len(MINI_IMAGENET) * per_class * (side * side * 3 + 8)
        require_space(self.data_dir, needed, "mini-ImageNet's prepared images")
        place = rows(self._classes(form))
        write_images(self, out, place, side, form.images(place), progress)

    def _classes(self, form: Form) -> dict[str, dict[int, list[str]]]:
        """Keys of the images by split and label. Raises UserError for a class with too few or too many."""
        train, test = self.settings.train_per_class, self.settings.test_per_class
        index = form.index()
        if not set(index) & set(MINI_IMAGENET):
            raise UserError(
                f"{form.path} has no class of mini-ImageNet, such as {MINI_IMAGENET[0]}: {form.expected}"
            )
        found: dict[str, dict[int, list[str]]] = {split: {} for split in SPLITS}
        for label, wnid in enumerate(MINI_IMAGENET):
            keys = index.get(wnid, [])
            if len(keys) != train + test:
                raise UserError(
                    f"{form.path}: class {wnid} has {len(keys):,} images, expected {train:,} to train and "
                    f"{test:,} to test: complete the class, or set train_per_class and test_per_class"
                )
            if len(set(keys)) < len(keys):
                raise UserError(f"{form.path}: class {wnid} lists an image twice: get the file again")
            found["train"][label], found["test"][label] = keys[:train], keys[train:]
        return found
