"""The pool of characters that can be classes: drawn by two or more typefaces, without look-alikes."""

import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageFont

# Every face of the four text families that matplotlib ships. (Its Computer Modern and STIX symbol fonts
# use custom encodings, so their character codes do not identify the characters.)
FAMILIES = {
    "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
    "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
    "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
}
FACES = [family + style for family, styles in FAMILIES.items() for style in styles]
# Letters, digits, punctuation and symbols. Modifiers, marks, spaces and controls draw too little.
CATEGORIES = {"Lu", "Ll", "Lt", "Lo", "Nd", "Nl", "No", "Po", "Sm", "Sc", "So"}
SIDE = 20  # pixels per side of the normalised drawings that are compared
LOOK_ALIKE = 0.86  # cosine similarity above which two characters count as the same class
ORDER_SEED = 20231006  # shuffles the pool, so that all its ranges are alike


def face_path(face: str) -> Path:
    """Return the path of a face's file in matplotlib's data folder."""
    import matplotlib  # takes longer than a plan needs for everything else

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@lru_cache
def faces_of() -> dict[int, tuple[str, ...]]:
    """Map each code point that at least two families have to the faces that draw it."""
    faces: dict[int, list[str]] = {}
    for face in FACES:
        with TTFont(face_path(face), lazy=True) as font:
            for point in font.getBestCmap():
                faces.setdefault(point, []).append(face)
    families = {face: family for family, styles in FAMILIES.items() for face in (family + s for s in styles)}
    return {p: tuple(f) for p, f in sorted(faces.items()) if len({families[face] for face in f}) > 1}


@lru_cache
def pool() -> tuple[int, ...]:
    """Return the code points that may be classes, in the fixed order that `first_class` indexes."""
    candidates = [p for p in faces_of() if _is_a_class(chr(p))]
    drawings, drawn = _normalised(candidates)
    candidates = [p for p, ok in zip(candidates, drawn, strict=True) if ok]
    drawings = drawings[drawn]
    similar = drawings @ drawings.T > LOOK_ALIKE
    kept = np.zeros(len(candidates), dtype=bool)
    for i in range(len(candidates)):  # in code-point order, so the plain letter stays and its look-alikes go
        kept[i] = not similar[i, :i][kept[:i]].any()
    chosen = np.array(candidates)[kept]
    return tuple(np.random.default_rng(ORDER_SEED).permutation(chosen).tolist())


def digit_of(point: int) -> int | None:
    """Return the digit that a character of any script or style stands for; None for other characters."""
    return unicodedata.digit(chr(point), None)


def _is_a_class(character: str) -> bool:
    """Return whether a character may be a class.

    Mathematical alphabets are excluded because they repeat letters in other styles, Braille patterns because
    they differ by a dot.
    """
    return (
        unicodedata.category(character) in CATEGORIES
        and not unicodedata.decomposition(character).startswith("<font>")
        and not 0x2800 <= ord(character) <= 0x28FF
    )


def _normalised(points: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return unit-norm drawings (n, SIDE * SIDE), centred and scaled to one box, and which have ink (n,).

    A drawing without ink, or whose ink is less than 6 pixels wide and high, is zero and counts as without.
    """
    drawings = np.zeros((len(points), SIDE * SIDE), dtype=np.float32)
    fonts: dict[str, ImageFont.FreeTypeFont] = {}
    for row, point in enumerate(points):
        face = faces_of()[point][0]
        if face not in fonts:
            fonts[face] = ImageFont.truetype(face_path(face), 40)
        mask = fonts[face].getmask(chr(point))
        if 0 in mask.size:
            continue
        image = Image.frombytes("L", mask.size, bytes(mask))
        box = image.getbbox()
        if box is None or max(box[2] - box[0], box[3] - box[1]) < 6:
            continue
        glyph = image.crop(box)
        scale = SIDE / max(glyph.size)
        size = [max(1, round(side * scale)) for side in glyph.size]
        canvas = Image.new("L", (SIDE, SIDE))
        left, top = ((SIDE - side) // 2 for side in size)
        canvas.paste(glyph.resize(size, Image.Resampling.BOX), (left, top))
        drawings[row] = np.asarray(canvas, dtype=np.float32).ravel()
    norms = np.linalg.norm(drawings, axis=1, keepdims=True)
    return drawings / np.maximum(norms, 1e-9), norms[:, 0] > 0
