"""mini-ImageNet: 100 ImageNet classes of 600 images at 84 pixels. There is no official download.

It is distributed as pickles, image files and parquet files. mini_imagenet_forms.py reads all three.
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
ENDINGS = ("", ".zip", *TAR_ENDINGS, ".parquet")  # "": a folder, which is tried first


@SOURCES.register("mini_imagenet")
class MiniImageNet(Source):
    """Classes are WordNet numbers in sorted order. The first images of a class train, the last ones test.

    Images are in the file's order for pickles and parquet, and in natural order of their names for image
    files. The three class splits are merged in the order train, val, test.
    """

    class Settings(BaseSettings):
        """path: file or folder to read; by default mini-imagenet in the mirror or in <data_dir>/downloads.

        size: pixels per side. train_per_class, test_per_class: the split; their sum is all images of a class.
        """

        path: str | None = Field(default=None, min_length=1)
        size: int = Field(default=84, ge=8, le=1024)
        train_per_class: int = Field(default=500, ge=1)
        test_per_class: int = Field(default=100, ge=1)

    def class_names(self) -> list[str]:
        """Return the WordNet numbers, sorted."""
        return list(MINI_IMAGENET)

    def counts(self) -> dict[str, int]:
        """Return the configured numbers of images."""
        s = self.settings
        return {
            "train": len(MINI_IMAGENET) * s.train_per_class,
            "test": len(MINI_IMAGENET) * s.test_per_class,
        }

    def content_ids(self) -> set[str]:
        """Return the WordNet numbers. Other ImageNet subsets share them."""
        return {f"wnid:{wnid}" for wnid in MINI_IMAGENET}

    def path(self) -> Path:
        """Return the path to read. Raises Missing when nothing exists there."""
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
        """Return the hash of the files; None if missing, so that a dry run works without them."""
        try:
            return form_of(self.path()).content(self.data_dir)
        except Missing:
            return None

    def identity(self) -> dict:
        """Return settings and content hash, independent of the files' location and dates."""
        settings = self.settings.model_dump(mode="json", exclude={"path"})
        return {"source": self.name, "settings": settings, "content": self._content}

    def check(self, progress=None) -> None:
        """Raise Missing for missing files, and UserError for classes of a wrong size if cheap to count."""
        form = form_of(self.path())
        if form.is_cheap:
            self._classes(form)

    def prepare(self, out, progress=None) -> None:
        """Read the images, split them and write the prepared folder."""
        form = form_of(self.path())
        side, per_class = self.settings.size, self.settings.train_per_class + self.settings.test_per_class
        needed = len(MINI_IMAGENET) * per_class * (side * side * 3 + 8)
        require_space(self.data_dir, needed, "mini-ImageNet's prepared images")
        place = rows(self._classes(form))
        write_images(self, out, place, side, form.images(place), progress)

    def _classes(self, form: Form) -> dict[str, dict[int, list[str]]]:
        """Return the images' keys by split and label. Raises UserError for a class of a wrong size."""
        train, test = self.settings.train_per_class, self.settings.test_per_class
        index = form.index()
        if not set(index) & set(MINI_IMAGENET):
            raise UserError(
                f"{form.path} has no class of mini-ImageNet, such as {MINI_IMAGENET[0]}: {form.expected}"
            )
        classes: dict[str, dict[int, list[str]]] = {split: {} for split in SPLITS}
        for label, wnid in enumerate(MINI_IMAGENET):
            keys = index.get(wnid, [])
            if len(keys) != train + test:
                raise UserError(
                    f"{form.path}: class {wnid} has {len(keys):,} images, expected {train:,} to train and "
                    f"{test:,} to test: complete the class, or set train_per_class and test_per_class"
                )
            if len(set(keys)) < len(keys):
                raise UserError(f"{form.path}: class {wnid} lists an image twice: get the file again")
            classes["train"][label], classes["test"][label] = keys[:train], keys[train:]
        return classes
