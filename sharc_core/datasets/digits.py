"""scikit-learn's bundled handwritten digits: 1,797 real images, 10 classes, no download."""

import math

import numpy as np
from PIL import Image
from pydantic import Field

from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.datasets.base import SOURCES, SPLITS, Source, writing

IMAGES, FEWEST = 1797, 174  # of all classes, and of the smallest (the eights)
SIDE = 32  # the originals are 8 x 8


@SOURCES.register("digits")
class Digits(Source):
    """8 x 8 grey levels of 0..16, enlarged smoothly to 32 x 32 RGB; a stratified, seeded split."""

    class Settings(BaseSettings):
        """test_fraction: share of the images held out. seed: of the split."""

        test_fraction: float = Field(default=0.25, gt=0, lt=1)
        seed: int = Field(default=0, ge=0, le=2**32 - 1)  # what scikit-learn takes

    def class_names(self) -> list[str]:
        """The ten digits."""
        return [str(digit) for digit in range(10)]

    def content_ids(self) -> set[str]:
        """The ids that rendered digits have too: handwriting is another style, not another class."""
        return {f"glyph:U+{ord(name):04X}" for name in self.class_names()}

    def check(self, progress=None) -> None:
        """Every class must have train and test images."""
        # a stratified split gives a class its share, rounded: only where that may be none, look
        if min(self._sizes()) * FEWEST < IMAGES:
            self._split(_grey_and_labels()[1])

    def counts(self) -> dict[str, int]:
        """As the split falls."""
        self.check()
        return dict(zip(SPLITS, self._sizes(), strict=True))

    def _sizes(self) -> tuple[int, int]:
        """Numbers of train and test images, as scikit-learn rounds them."""
        test = math.ceil(self.settings.test_fraction * IMAGES)
        return IMAGES - test, test

    def _split(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Sorted rows by split. Raises UserError when a class has none in one of them."""
        from sklearn.model_selection import train_test_split

        classes = len(self.class_names())
        try:
            split = train_test_split(
                np.arange(len(labels)),
                test_size=self.settings.test_fraction,
                random_state=self.settings.seed,
                stratify=labels,
            )
            is_whole = all(len(np.unique(labels[chosen])) == classes for chosen in split)
        except ValueError:  # fewer images than classes
            is_whole = False
        if not is_whole:
            least = classes / len(labels)  # one image per class
            raise UserError(
                f"digits: test_fraction {self.settings.test_fraction} leaves a class without train or test "
                f"images: choose one from {least:.3f} to {1 - least:.3f}"
            )
        return dict(zip(SPLITS, map(np.sort, split), strict=True))

    def prepare(self, out, progress=None) -> None:
        """Enlarge and split."""
        grey, labels = _grey_and_labels()
        levels = (grey.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
        images = np.stack(
            [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in levels]
        )
        images = np.repeat(images[..., None], 3, axis=3)
        index = self._split(labels)
        counts = {name: len(chosen) for name, chosen in index.items()}
        with writing(self, out, counts, (SIDE, SIDE)) as writer:
            for name, chosen in index.items():
                writer.add(name, images[chosen], labels[chosen])


def _grey_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """(n, 64) grey levels and (n,) labels."""
    from sklearn.datasets import load_digits  # takes seconds, which no job but this source's should wait

    return load_digits(return_X_y=True)
