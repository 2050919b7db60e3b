"""Characters rendered from the fonts that matplotlib ships: many classes, no download.

A class is a character. Samples vary in typeface, weight, slant, size, position, rotation, shear, stroke,
colours, background, clutter, blur and noise. Each sample has its own generator, seeded by (seed, character,
split, number). So a sample depends neither on the other samples nor on the number of workers.
"""

import multiprocessing
import os
from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.datasets.base import SOURCES, SPLITS, Source, writing
from sharc_core.datasets.glyph_pool import digit_of, face_path, faces_of, pool

CANVAS = 96  # pixels per side of the square on which a character is drawn before it is placed
FONT_SIZE = 52
DRAWS = 40  # uniform numbers per sample; a fixed count keeps the meaning of each


@SOURCES.register("glyphs")
class Glyphs(Source):
    """Rendered characters, `size` x `size` RGB."""

    class Settings(BaseSettings):
        """classes, first_class: size and start of the range of the character pool.

        digits: false removes every character that stands for a digit from the pool and keeps the order of
        the others, so that a network pre-trained on them has not seen the classes of a stream of digits.
        train_per_class, test_per_class: images. seed: seed of all variation. size: pixels per side.
        """

        classes: int = Field(ge=2)
        first_class: int = Field(default=0, ge=0)
        digits: bool = True
        train_per_class: int = Field(default=100, ge=1)
        test_per_class: int = Field(default=20, ge=1)
        seed: int = Field(default=0, ge=0, le=2**63 - 1)
        size: int = Field(default=32, ge=8, le=256)

    def points(self) -> list[int]:
        """Return the code points in label order. Raises UserError when the pool has too few."""
        first, count = self.settings.first_class, self.settings.classes
        points = [p for p in pool() if self.settings.digits or digit_of(p) is None]
        if first + count > len(points):
            raise UserError(
                f"glyphs: classes {first} to {first + count - 1} were asked for, but the fonts hold "
                f"{len(points)} distinct characters: lower classes or first_class"
            )
        return points[first : first + count]

    def class_names(self) -> list[str]:
        """Return the code points in Unicode notation, such as U+0041."""
        return [f"U+{point:04X}" for point in self.points()]

    def content_ids(self) -> set[str]:
        """Return ids of the characters and, for those that stand for a digit (8, ⁸, ➇ or ٨), of the digit."""
        points = self.points()
        plain = {ord(str(digit_of(point))) for point in points if digit_of(point) is not None}
        return {f"glyph:U+{point:04X}" for point in plain.union(points)}

    def counts(self) -> dict[str, int]:
        """Return the configured numbers of images."""
        s = self.settings
        return {"train": s.classes * s.train_per_class, "test": s.classes * s.test_per_class}

    def check(self, progress=None) -> None:
        """Raise UserError when the pool is too small."""
        self.points()

    def prepare(self, out, progress=None, workers: int | None = None) -> None:
        """Render all images, class by class, in `workers` processes (default: all cores)."""
        s = self.settings
        per_class = {"train": s.train_per_class, "test": s.test_per_class}
        tasks = [
            (split, label, point, per_class[split], s.seed, s.size)
            for split in SPLITS
            for label, point in enumerate(self.points())
        ]
        step = max(1, len(tasks) // 5)
        with writing(self, out, self.counts(), (s.size, s.size)) as writer:
            rendered = _in_order(tasks, workers or os.cpu_count() or 1)
            for number, ((split, label, *_), images) in enumerate(zip(tasks, rendered, strict=True), 1):
                writer.add(split, images, label)
                if progress and (number % step == 0 or number == len(tasks)):
                    progress(f"rendered {number} of {len(tasks)} batches of glyphs")


def _in_order(tasks: list[tuple], workers: int) -> Iterator[np.ndarray]:
    """Yield render_class(task) of every task, in forked processes where the system supports forking."""
    if workers == 1 or len(tasks) < 4 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(render_class, tasks)
        return
    pool()  # computed once here, inherited by the children
    with multiprocessing.get_context("fork").Pool(min(workers, len(tasks))) as processes:
        yield from processes.imap(render_class, tasks, chunksize=4)


def render_class(task: tuple[str, int, int, int, int, int]) -> np.ndarray:
    """Render (split, label, code point, count, seed, size) as images (count, size, size, 3) uint8."""
    split, _, point, count, seed, size = task
    rngs = [np.random.default_rng([seed, point, SPLITS.index(split), i]) for i in range(count)]
    u = np.stack([rng.random(DRAWS, dtype=np.float32) for rng in rngs])
    noise = np.stack([rng.standard_normal((size, size, 3), dtype=np.float32) for rng in rngs])
    ink = np.stack([_ink(point, row, size) for row in u])
    clutter = np.stack([_clutter(row, size) for row in u])
    return _compose(u, ink, clutter, noise)


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face_path(face), FONT_SIZE)


@lru_cache(maxsize=512)
def _drawing(point: int, face: str, stroke: int) -> tuple[Image.Image, float]:
    """Draw the character in white, centred on a black canvas. Return it and its larger side in pixels."""
    text, middle = chr(point), CANVAS / 2
    image = Image.new("L", (CANVAS, CANVAS))
    draw, font = ImageDraw.Draw(image), _font(face)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font, stroke_width=stroke)
    corner = (middle - (left + right) / 2, middle - (top + bottom) / 2)
    draw.text(corner, text, font=font, fill=255, stroke_width=stroke)
    return image, max(right - left, bottom - top, 1)


def _ink(point: int, u: np.ndarray, size: int) -> np.ndarray:
    """Return the coverage (size, size) in [0, 1] of the placed character."""
    faces = faces_of()[point]
    face = faces[int(u[0] * len(faces))]
    stroke = 2 if u[1] < 0.25 else 0
    image, extent = _drawing(point, face, stroke)
    # The map from output pixels to the canvas: scale, aspect, rotation, shear, position.
    side = (0.5 + 0.42 * u[2]) * size
    zoom = extent / side
    aspect = np.exp((u[3] - 0.5) * 0.5)
    angle = np.deg2rad((u[4] - 0.5) * 44)
    shear = (u[5] - 0.5) * 0.5
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, sin], [-sin, cos]]) @ np.array([[1, shear], [0, 1]])
    matrix = np.diag([aspect, 1 / aspect]) @ matrix * zoom
    slack = max(0.0, (size - side) / 2) + 1.5
    centre = size / 2 + (u[6:8] * 2 - 1) * slack
    offset = CANVAS / 2 - matrix @ centre
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    ink = np.asarray(
        image.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR),
        dtype=np.float32,
    )
    return ink / 255


def _clutter(u: np.ndarray, size: int) -> np.ndarray:
    """Return the coverage (size, size) in [0, 1] of up to three stray strokes."""
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    for i in range(int(u[8] * 4)):
        x0, y0, x1, y1 = (u[9 + 4 * i : 13 + 4 * i] * size).tolist()
        if i == 1:
            draw.arc([min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1], 0, 360, fill=200)
        else:
            draw.line([x0, y0, x1, y1], fill=255, width=1 + (i == 2))
    return np.asarray(image, dtype=np.float32) / 255


def _compose(u: np.ndarray, ink: np.ndarray, clutter: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Compose background gradient, clutter, character, blur and noise to images (n, size, size, 3) uint8.

    u (n, DRAWS); ink, clutter (n, size, size); noise (n, size, size, 3).
    """
    size = ink.shape[1]
    ground, colour, stray = u[:, 21:24], u[:, 24:27], u[:, 27:30]
    # Ink must differ from the background. Where the grey levels are close, the ink moves away from it.
    gap = colour.mean(1) - ground.mean(1)
    wanted = np.where(gap < 0, -1, 1) * (0.22 + 0.3 * u[:, 30])
    push = np.where(np.abs(gap) < np.abs(wanted), wanted - gap, 0)
    colour = colour + push[:, None]
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    tilt = u[:, 31:33] - 0.5
    slope = tilt[:, :1, None] * ramp[None, :, None] + tilt[:, 1:, None] * ramp[None, None, :]
    image = ground[:, None, None, :] + 0.6 * slope[..., None]
    image = image + (0.7 * clutter * u[:, 33, None, None])[..., None] * (stray[:, None, None, :] - image)
    image = image + ink[..., None] * (colour[:, None, None, :] - image)
    soft = image.copy()
    soft[:, 1:-1, 1:-1] = (
        image[:, :-2, 1:-1]
        + image[:, 2:, 1:-1]
        + image[:, 1:-1, :-2]
        + image[:, 1:-1, 2:]
        + 2 * image[:, 1:-1, 1:-1]
    ) / 6
    blur = np.where(u[:, 34] < 0.5, 0, u[:, 35])[:, None, None, None]
    image = image + blur * (soft - image) + noise * (0.01 + 0.07 * u[:, 36])[:, None, None, None]
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
