"""Convert an open image file to the pixels that a viewer shows: upright RGB on white, 8 bits per channel.

Pixels without such a conversion (floats without a white point, for example) raise an error. Pillow would
convert some of them silently to wrong values.
"""

from typing import Any

import numpy as np
from PIL import ExifTags, Image

from sharc_core.common.errors import UserError

Opened = Any  # an image file that Pillow opened; its attributes depend on the format
WHITE = (255, 255, 255)  # the background of transparent pixels
TRANSPOSITIONS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
GREY_SCALES = {
    "L;2": 85,
    "L;4": 17,
}  # by Pillow's name of a PNG's packing of grey: factor from its levels to 255
BITS, PHOTOMETRIC, SUBSAMPLING, SAMPLE_FORMAT = 258, 262, 530, 339  # TIFF tags
WHITE_IS_ZERO, UNSIGNED = 0, (1, 4)  # values of two of these tags; 4 is "undefined" and is read as unsigned
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
EIGHT_BIT = "save it with 8 bits per channel, as a PNG for example"


def upright_rgb(image: Opened, name: str) -> Image.Image:
    """Convert the first frame of an open image file. Raises UserError naming a file of unsupported pixels.

    If there are more frames, they are not read and the result's info is {"frames": 2}.
    """
    packed = _packing(image)
    box = image.tile[0][1] if image.format == "GIF" and image.tile else None
    _refuse_misread(image, packed, name)
    levels = _depth(image)  # a TIFF's tags must be read before its pixels
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        result = _from_16_bits(image, *levels)
    elif image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise _refusal(name, f"{kind} pixels, whose white is not defined", "scale it, and " + EIGHT_BIT)
    elif image.mode not in PLAIN + WITH_ALPHA:
        raise _refusal(name, f"{image.mode} pixels", "convert it to RGB")
    elif image.has_transparency_data:
        result = _on_white(image, packed)
    else:
        result = image.convert("RGB")
    if box and tuple(box) != (0, 0, *image.size):  # outside its first frame, a GIF shows the background
        frame, result = result, Image.new("RGB", image.size, WHITE)
        result.paste(frame.crop(box), box[:2])
    result = _turned(result, image)
    result.info = {"frames": 2} if _has_more_frames(image) else {}
    return result


def _refusal(name: str, problem: str, remedy: str) -> UserError:
    return UserError(f"{name} has {problem}: {remedy}")


def _packing(image: Opened) -> str:
    """Return Pillow's name of the file's packing of pixels, such as RGB;16B; empty without one."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _refuse_misread(image: Opened, packed: str, name: str) -> None:
    """Raise UserError for pixels that Pillow reads wrongly without an error."""
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        raise _refusal(name, "CMYK pixels and no Adobe marker, so 0 may be ink or none", "convert it to RGB")
    if image.format == "PNG" and packed == "RGB;16B" and "transparency" in image.info:
        raise _refusal(name, "16-bit pixels and a transparent colour", EIGHT_BIT + ", or an alpha channel")
    if image.format == "TIFF":
        tags = image.tag_v2
        if image.mode != "F" and not set(tags.get(SAMPLE_FORMAT, (1,))) <= set(UNSIGNED):
            raise _refusal(name, "signed pixels, whose white is not defined", "scale it, and " + EIGHT_BIT)
        if image.mode == "YCbCr" and packed == "YCbCr" and tags.get(SUBSAMPLING, (2, 2)) != (1, 1):
            raise _refusal(name, "YCbCr pixels that share their colours", "convert it to RGB")


def _depth(image: Opened) -> tuple[int, bool]:
    """Return the highest level of 16-bit grey, and whether that level is black (in some TIFFs)."""
    if image.format != "TIFF":
        return 65535, False
    tags = image.tag_v2
    bits = tags.get(BITS, (16,))[0]
    return 2 ** min(bits, 16) - 1, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _from_16_bits(image: Image.Image, white: int, is_inverted: bool) -> Image.Image:
    levels = np.asarray(image).astype(np.uint32)
    transparent = image.info.get("transparency")
    hidden = levels == transparent if isinstance(transparent, int) else None
    levels = ((levels * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if is_inverted:
        levels = 255 - levels
    if hidden is not None:
        levels[hidden] = 255
    return Image.fromarray(levels).convert("RGB")


def _on_white(image: Image.Image, packed: str) -> Image.Image:
    scale = GREY_SCALES.get(packed)
    if image.format == "PNG" and scale and isinstance(image.info.get("transparency"), int):
        # Pillow scales the pixels to 255, but not the transparent level
        image.info["transparency"] = min(255, image.info["transparency"] * scale)
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image).convert("RGB")


def _turned(result: Image.Image, image: Image.Image) -> Image.Image:
    """Turn the result to the orientation in the file's EXIF or XMP block."""
    if image.format == "TIFF":  # Pillow turned it while loading
        return result
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a damaged block raises many kinds of exceptions; viewers ignore it too
        return result
    method = TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return result if method is None else result.transpose(method)


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the data after the first frame is damaged; it is not read
        return True
