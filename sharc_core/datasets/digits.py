"""scikit-learn's bundled handwritten digits: 1,797 real images, 10 classes, no download."""

import numpy as np
from PIL import Image
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sharc_core.datasets.base import SOURCES, Source, writing
from sharc_core.settings import Settings as BaseSettings

SIDE = 32  # the originals are 8 x 8


@SOURCES.register("digits")
class Digits(Source):
    """8 x 8 grey levels of 0..16, enlarged smoothly to 32 x 32 RGB; a stratified, seeded split."""

    class Settings(BaseSettings):
        """test_fraction: share of the images held out. seed: of the split."""

        test_fraction: float = Field(default=0.25, gt=0, lt=1)
        seed: int = Field(default=0, ge=0)

    def class_names(self) -> list[str]:
        """The ten digits."""
        return [str(digit) for digit in range(10)]

    def content_ids(self) -> set[str]:
        """Handwriting, so no glyph class is the same."""
        return {f"digits:{name}" for name in self.class_names()}

    def prepare(self, out, progress=None) -> None:
        """Enlarge and split."""
        grey, labels = load_digits(return_X_y=True)
        levels = (grey.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
        images = np.stack(
            [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.BICUBIC)) for i in levels]
        )
        images = np.repeat(images[..., None], 3, axis=3)
        split = train_test_split(
            np.arange(len(labels)),
            test_size=self.settings.test_fraction,
            random_state=self.settings.seed,
            stratify=labels,
        )
        index = dict(zip(("train", "test"), map(np.sort, split), strict=True))
        counts = {name: len(chosen) for name, chosen in index.items()}
        with writing(self, out, counts, (SIDE, SIDE)) as writer:
            for name, chosen in index.items():
                writer.add(name, images[chosen], labels[chosen])
