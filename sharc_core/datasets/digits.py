"""scikit-learn's bundled handwritten digits: 1,797 real images, 10 classes, no download."""

import math

import numpy as np
from PIL import Image
from pydantic import Field

from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.datasets.base import SOURCES, SPLITS, Source, writing

IMAGES, FEWEST = 1797, 174  # images of all classes and of the smallest (the eights)
SIDE = 32  # the originals are 8 x 8


@SOURCES.register("digits")
class Digits(Source):
    """8 x 8 grey levels of 0..16, enlarged to 32 x 32 RGB (bicubic), with a stratified, seeded split."""

    class Settings(BaseSettings):
        """test_fraction: share of the images held out. seed: of the split."""

        test_fraction: float = Field(default=0.25, gt=0, lt=1)
        seed: int = Field(default=0, ge=0, le=2**32 - 1)  # scikit-learn's range

    def class_names(self) -> list[str]:
        """Return the ten digits as text."""
        return [str(digit) for digit in range(10)]

    def content_ids(self) -> set[str]:
        """Return the ids of rendered digits: handwriting is another style, not another class."""
        return {f"glyph:U+{ord(name):04X}" for name in self.class_names()}

    def check(self, progress=None) -> None:
        """Raise UserError when a class would have no train or no test images."""
        # a stratified split rounds each class's share; load the labels only if a share may round to 0
        if min(self._sizes()) * FEWEST < IMAGES:
            self._split(_grey_and_labels()[1])

    def counts(self) -> dict[str, int]:
        """Return the sizes of the split. Raises UserError as `check` does."""
        self.check()
        return dict(zip(SPLITS, self._sizes(), strict=True))

    def _sizes(self) -> tuple[int, int]:
        """Return the numbers of train and test images, rounded as in scikit-learn."""
        test = math.ceil(self.settings.test_fraction * IMAGES)
        return IMAGES - test, test

    def _split(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the sorted rows of each split. Raises UserError when a split lacks a class."""
        from sklearn.model_selection import train_test_split

        classes = len(self.class_names())
        try:
            split = train_test_split(
                np.arange(len(labels)),
                test_size=self.settings.test_fraction,
                random_state=self.settings.seed,
                stratify=labels,
            )
            is_complete = all(len(np.unique(labels[rows])) == classes for rows in split)
        except ValueError:  # fewer images than classes
            is_complete = False
        if not is_complete:
            least = classes / len(labels)  # one image per class
            raise UserError(
                f"digits: test_fraction {self.settings.test_fraction} leaves a class without train or test "
                f"images: choose one from {least:.3f} to {1 - least:.3f}"
            )
        return dict(zip(SPLITS, map(np.sort, split), strict=True))

    def prepare(self, out, progress=None) -> None:
        """Enlarge the images, split them and write the prepared folder."""
        grey, labels = _grey_and_labels()
        levels = (grey.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
        images = np.stack(
            [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in levels]
        )
        images = np.repeat(images[..., None], 3, axis=3)
        index = self._split(labels)
        counts = {name: len(rows) for name, rows in index.items()}
        with writing(self, out, counts, (SIDE, SIDE)) as writer:
            for name, rows in index.items():
                writer.add(name, images[rows], labels[rows])


def _grey_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Return grey levels (n, 64) and labels (n,)."""
    from sklearn.datasets import load_digits  # takes seconds, and only this source needs it

    return load_digits(return_X_y=True)
