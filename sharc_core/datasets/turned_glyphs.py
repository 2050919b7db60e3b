"""Rendered characters, upright and after a quarter turn: more classes than there are characters.

Turned characters count as classes of their own, as in Omniglot's augmentation (Santoro et al. 2016, "One-shot
learning with memory-augmented neural networks", arXiv 1605.06065).
"""

from functools import lru_cache

import numpy as np
from pydantic import Field

from sharc_core.common.errors import UserError
from sharc_core.datasets.base import SOURCES, SPLITS, writing

# its private function keeps its name and place because both are part of the hash of prepared glyphs
from sharc_core.datasets.glyph_pool import SIDE, _normalised, digit_of, pool
from sharc_core.datasets.glyphs import Glyphs, render_class

LOOK_ALIKE = 0.7  # cosine similarity above which a turned character is no class; samples vary by 22 degrees


@lru_cache
def distinct_when_turned() -> frozenset[int]:
    """Return the code points of the pool that look like no character of it after a quarter turn.

    O and X are left out because they look like themselves, and Z because it looks like N.
    """
    drawings, _ = _normalised(list(pool()))
    turned = np.rot90(drawings.reshape(-1, SIDE, SIDE), axes=(1, 2)).reshape(drawings.shape)
    alike = (turned @ drawings.T > LOOK_ALIKE).any(1)
    return frozenset(point for point, is_alike in zip(pool(), alike.tolist(), strict=True) if not is_alike)


@SOURCES.register("turned_glyphs")
class TurnedGlyphs(Glyphs):
    """The characters of a range of the pool, then those of them that are another class when turned."""

    class Settings(Glyphs.Settings):
        """characters: size of the range. classes: of upright and turned ones; the others as for glyphs."""

        characters: int = Field(default=1000, ge=1)

    def turns(self) -> list[tuple[int, bool]]:
        """Return code point and whether it is turned, in label order. Raises UserError for too many."""
        s = self.settings
        points = [point for point in pool() if s.digits or digit_of(point) is None]
        if s.first_class + s.characters > len(points):
            raise UserError(
                f"turned_glyphs: characters {s.first_class} to {s.first_class + s.characters - 1} were asked "
                f"for, but the fonts hold {len(points)} distinct ones: lower characters or first_class"
            )
        chosen = points[s.first_class : s.first_class + s.characters]
        turned = [point for point in chosen if point in distinct_when_turned()]
        if s.classes > len(chosen) + len(turned):
            raise UserError(
                f"turned_glyphs: {len(chosen)} characters make {len(chosen) + len(turned)} classes, fewer "
                f"than {s.classes}: raise characters or lower classes"
            )
        return [*((p, False) for p in chosen), *((p, True) for p in turned)][: s.classes]

    def points(self) -> list[int]:
        """Return the code points in label order; that of a turned character is there twice."""
        return [point for point, _ in self.turns()]

    def class_names(self) -> list[str]:
        """Return the code points in Unicode notation, such as U+0041 and, turned, U+0041-turned."""
        return [f"U+{point:04X}{'-turned' if is_turned else ''}" for point, is_turned in self.turns()]

    def prepare(self, out, progress=None, workers: int | None = None) -> None:
        """Render all images, class by class, in one process whatever `workers` is."""
        s, turns = self.settings, self.turns()
        per_class = {"train": s.train_per_class, "test": s.test_per_class}
        with writing(self, out, self.counts(), (s.size, s.size)) as writer:
            for split in SPLITS:
                for label, (point, is_turned) in enumerate(turns):
                    # a turned character is drawn with other random numbers than the upright one
                    seed = s.seed + is_turned
                    images = render_class((split, label, point, per_class[split], seed, s.size))
                    writer.add(split, np.rot90(images, axes=(1, 2)) if is_turned else images, label)
                if progress:
                    progress(f"rendered the {split} images of {len(turns)} classes")
