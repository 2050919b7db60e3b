"""Pixels equal those in a viewer, or the file is refused by name: orientation, frames, transparency."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_factory import encoded, png, tiff
from PIL import Image, ImageCms

from sharc_core.common.errors import UserError
from sharc_core.datasets.pictures import decode
from sharc_core.datasets.threads import in_order

RAMP = Image.fromarray(np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3))  # three wide, two high
COLOURS = Image.fromarray(np.arange(0, 180, 10, dtype=np.uint8).reshape(2, 3, 3))


def pixels(content: bytes) -> list:
    """Return all pixels row by row."""
    image = decode(content, "x")
    assert image.mode == "RGB"
    return np.asarray(image).reshape(-1, 3).tolist()


def grey(content: bytes) -> list[int]:
    found = pixels(content)
    assert all(r == g == b for r, g, b in found)
    return [r for r, _, _ in found]


def refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"^a/1.x {message}") as caught:
        decode(content, "a/1.x")
    assert "\n" not in str(caught.value)


# --- orientation -----------------------------------------------------------------------------------

UPRIGHT = {  # (0 40 80 / 120 160 200) after orientation
    1: [[0, 40, 80], [120, 160, 200]],
    2: [[80, 40, 0], [200, 160, 120]],
    3: [[200, 160, 120], [80, 40, 0]],
    4: [[120, 160, 200], [0, 40, 80]],
    5: [[0, 120], [40, 160], [80, 200]],
    6: [[120, 0], [160, 40], [200, 80]],
    7: [[200, 80], [160, 40], [120, 0]],
    8: [[80, 200], [40, 160], [0, 120]],
}
KINDS = [
    ("PNG", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
    ("JPEG", {"quality": 100}),
]


@pytest.mark.reliability("unusual-images")
@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9])
@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_turned_upright(kind, options, orientation, mode):
    if "compression" in options and orientation not in UPRIGHT:
        pytest.skip("libtiff does not write it")
    exif = Image.Exif()
    exif[0x112] = orientation
    content = encoded(RAMP.convert(mode), kind, exif=exif, **options)
    found = np.asarray(decode(content, "x"))[..., 0]
    expected = np.array(UPRIGHT.get(orientation, UPRIGHT[1]))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (4 if kind == "JPEG" else 0)


def test_orientation_in_other_blocks_and_damaged_ones():
    """As in a viewer, XMP is used and a damaged EXIF block is ignored."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(encoded(RAMP, "JPEG", xmp=xmp), "x").size == (2, 3)
    for exif in (
        b"Exif\0\0junk",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0",
        b"Exif\0\0II*\0" + b"\xff" * 9,
    ):
        assert decode(encoded(RAMP, "JPEG", exif=exif), "x").size == (3, 2)
    exif = Image.Exif()
    exif[0x112] = 6
    cmyk = encoded(COLOURS.convert("CMYK"), "JPEG", exif=exif)
    assert decode(cmyk, "x").size == (2, 3)
    sixteen = encoded(Image.fromarray(np.array([[0, 65535]], np.uint16)), "PNG", exif=exif)
    assert np.asarray(decode(sixteen, "x"))[..., 0].tolist() == [[0], [255]]


# --- grey ------------------------------------------------------------------------------------------

GREY = {
    "PNG of 1 bit": (png(4, 1, 0, b"\xa0"), [255, 0, 255, 0]),
    "PNG of 2 bits": (png(4, 2, 0, b"\x1b"), [0, 85, 170, 255]),
    "PNG of 4 bits": (png(4, 4, 0, b"\x05\xaf"), [0, 85, 170, 255]),
    "PNG of 8 bits": (png(3, 8, 0, b"\0\x64\xff"), [0, 100, 255]),
    "PNG of 16 bits": (png(4, 16, 0, struct.pack(">4H", 0, 25700, 25829, 65535)), [0, 100, 101, 255]),
    "plain bitmap": (b"P1 3 1\n0 1 0\n", [255, 0, 255]),
    "bitmap": (b"P4 3 1\n\x40", [255, 0, 255]),
    "PGM of 7 levels": (b"P2 3 1 7\n0 3 7\n", [0, 109, 255]),
    "PGM of 100 levels": (b"P5 3 1 100\n" + bytes([0, 50, 100]), [0, 128, 255]),
    "PGM of 300 levels": (b"P2 3 1 300\n0 150 300\n", [0, 128, 255]),
    "PGM of 1000 levels": (b"P5 3 1 1000\n" + struct.pack(">3H", 0, 500, 1000), [0, 128, 255]),
    "PGM of 16 bits": (b"P5 3 1 65535\n" + struct.pack(">3H", 0, 25700, 65535), [0, 100, 255]),
    "TIFF of 1 bit, 0 is white": (tiff(4, 1, {258: (1,), 262: (0,)}, b"\xa0"), [0, 255, 0, 255]),
    "TIFF of 4 bits": (tiff(4, 1, {258: (4,), 262: (1,)}, b"\x05\xaf"), [0, 85, 170, 255]),
    "TIFF of 8 bits, 0 is white": (tiff(3, 1, {258: (8,), 262: (0,)}, b"\0\x64\xff"), [255, 155, 0]),
    "TIFF of 12 bits": (tiff(2, 1, {258: (12,), 262: (1,)}, b"\xff\xf0\x01"), [255, 0]),
    "TIFF of 16 bits": (tiff(2, 1, {258: (16,), 262: (1,)}, struct.pack("<2H", 25700, 65535)), [100, 255]),
    "TIFF of 16 bits, big end first": (
        tiff(2, 1, {258: (16,), 262: (1,)}, struct.pack(">2H", 25700, 65535), ">"),
        [100, 255],
    ),
    "TIFF of 16 bits, 0 is white": (
        tiff(3, 1, {258: (16,), 262: (0,)}, struct.pack("<3H", 0, 25700, 65535)),
        [255, 155, 0],
    ),
    "TIFF with a channel of no meaning": (
        tiff(2, 1, {258: (8, 8), 262: (1,), 338: (0,)}, b"\1\2\3\0"),
        [1, 3],
    ),
    "BMP of 1 bit": (encoded(Image.fromarray(np.array([[True, False]])), "BMP"), [255, 0]),
    "BMP of 8 bits": (encoded(RAMP, "BMP"), [0, 40, 80, 120, 160, 200]),
    "GIF": (encoded(RAMP, "GIF"), [0, 40, 80, 120, 160, 200]),
    "JPEG": (encoded(Image.new("L", (2, 1), 77), "JPEG"), [77, 77]),
}


@pytest.mark.parametrize("name", GREY)
def test_grey_pixels_are_decoded(name):
    content, expected = GREY[name]
    assert grey(content) == expected


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_grey_of_16_bits_in_compressed_tiffs(compression):
    levels = Image.fromarray(np.array([[0, 257, 25700, 65535]], np.uint16))
    assert grey(encoded(levels, "TIFF", compression=compression)) == [0, 1, 100, 255]
    inverted = encoded(levels, "TIFF", compression=compression, tiffinfo={262: 0})
    assert grey(inverted) == [255, 254, 155, 0]


# --- colour ----------------------------------------------------------------------------------------

PALETTE = (b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 210, 220]))
SIXTEEN = (65535, 25700, 0)
COLOUR = {
    "PNG": (png(1, 8, 2, b"\1\2\3"), [[1, 2, 3]]),
    "PNG of 16 bits": (png(1, 16, 2, struct.pack(">3H", *SIXTEEN)), [[255, 100, 0]]),
    "PNG with a palette": (
        png(4, 2, 3, b"\x1b", PALETTE),
        [[10, 20, 30], [40, 50, 60], [70, 80, 90], [200, 210, 220]],
    ),
    "PPM of 1000 levels": (b"P6 1 1 1000\n" + struct.pack(">3H", 0, 500, 1000), [[0, 128, 255]]),
    "PPM of 16 bits": (b"P6 1 1 65535\n" + struct.pack(">3H", *SIXTEEN), [[255, 100, 0]]),
    "plain PPM": (b"P3 1 1 300\n0 150 300\n", [[0, 128, 255]]),
    "TIFF of 16 bits": (
        tiff(1, 1, {258: (16,) * 3, 262: (2,)}, struct.pack("<3H", *SIXTEEN)),
        [[255, 100, 0]],
    ),
    "TIFF with a channel of no meaning": (
        tiff(1, 1, {258: (8,) * 4, 262: (2,), 338: (0,)}, b"\1\2\3\0"),
        [[1, 2, 3]],
    ),
    "TIFF in CMYK": (encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [[255, 0, 0]]),
    "TIFF in YCbCr": (encoded(Image.new("YCbCr", (1, 1), (100, 128, 128)), "TIFF"), [[100, 100, 100]]),
    "BMP of 32 bits": (encoded(Image.new("RGB", (1, 1), (1, 2, 3)).convert("RGBA"), "BMP"), [[1, 2, 3]]),
    "BMP with a palette": (
        encoded(COLOURS.convert("P"), "BMP"),
        pixels(encoded(COLOURS.convert("P"), "PNG")),
    ),
    "GIF": (encoded(COLOURS.quantize(6), "GIF"), pixels(encoded(COLOURS.quantize(6), "PNG"))),
    "WebP": (encoded(COLOURS, "WEBP", lossless=True), np.asarray(COLOURS).reshape(-1, 3).tolist()),
}


@pytest.mark.parametrize("name", COLOUR)
def test_colour_pixels_are_decoded(name):
    content, expected = COLOUR[name]
    assert pixels(content) == expected


def without_adobe(content: bytes) -> bytes:
    """Return a JPEG without its Adobe marker."""
    start = content.index(b"\xff\xee")
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    return content[:start] + content[start + 2 + length :]


@pytest.mark.reliability("unreadable-pixels")
def test_cmyk_in_a_jpeg():
    """Adobe inverts the ink and marks the file; without the marker the meaning is unknown."""
    red = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.array(pixels(red)) - [255, 0, 0]).max() <= 2
    refused(without_adobe(red), "has CMYK pixels and no Adobe marker, .*: convert it to RGB")


# --- transparency ----------------------------------------------------------------------------------

HALF = [[128, 255, 128]]  # green (0, 255, 0) at half opacity on white, up to one level
TRANSPARENT = {
    "PNG": (png(2, 8, 6, bytes([0, 255, 0, 127, 9, 9, 9, 0])), [*HALF, [255, 255, 255]]),
    "PNG of 16 bits": (png(1, 16, 6, struct.pack(">4H", 0, 65535, 0, 32639)), HALF),
    "grey PNG": (png(2, 8, 4, bytes([0, 127, 9, 0])), [[128] * 3, [255] * 3]),
    "grey PNG of 16 bits": (png(1, 16, 4, struct.pack(">2H", 0, 32639)), [[128] * 3]),
    "grey PNG, one level of 1 bit": (png(2, 1, 0, b"\x40", (b"tRNS", b"\0\0")), [[255] * 3, [255] * 3]),
    "grey PNG, one level of 2 bits": (
        png(4, 2, 0, b"\x1b", (b"tRNS", b"\0\1")),
        [[v] * 3 for v in (0, 255, 170, 255)],
    ),
    "grey PNG, one level of 4 bits": (png(2, 4, 0, b"\x5a", (b"tRNS", b"\0\5")), [[255] * 3, [170] * 3]),
    "grey PNG, one level of 8 bits": (png(2, 8, 0, b"\5\6", (b"tRNS", b"\0\5")), [[255] * 3, [6] * 3]),
    "grey PNG, one level of 16 bits": (
        png(3, 16, 0, struct.pack(">3H", 0, 1, 25700), (b"tRNS", b"\0\1")),
        [[v] * 3 for v in (0, 255, 100)],
    ),
    "PNG, one colour": (png(2, 8, 2, b"\1\2\3\4\5\6", (b"tRNS", b"\0\1\0\2\0\3")), [[255] * 3, [4, 5, 6]]),
    "PNG with a palette": (
        png(4, 2, 3, b"\x1b", PALETTE, (b"tRNS", b"\0\xff")),
        [[255] * 3, [40, 50, 60], [70, 80, 90], [200, 210, 220]],
    ),
    "TIFF": (tiff(1, 1, {258: (8,) * 4, 262: (2,), 338: (2,)}, bytes([0, 255, 0, 127])), HALF),
    "TIFF, multiplied": (tiff(1, 1, {258: (8,) * 4, 262: (2,), 338: (1,)}, bytes([0, 127, 0, 127])), HALF),
    "grey TIFF": (tiff(1, 1, {258: (8, 8), 262: (1,), 338: (2,)}, b"\0\x7f"), [[128] * 3]),
    "grey TIFF, multiplied": (tiff(1, 1, {258: (8, 8), 262: (1,), 338: (1,)}, b"\0\x7f"), [[128] * 3]),
    "WebP": (encoded(Image.new("RGBA", (1, 1), (0, 255, 0, 127)), "WEBP", lossless=True), HALF),
    "GIF": (encoded(COLOURS.quantize(6), "GIF", transparency=0), None),
}


@pytest.mark.reliability("unusual-images")
@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_lies_on_white(name):
    content, expected = TRANSPARENT[name]
    found = pixels(content)
    if expected is None:  # one of the six colours
        assert found.count([255, 255, 255]) == 1
    else:
        assert np.abs(np.array(found) - expected).max() <= 1


def test_a_gif_whose_first_frame_is_smaller_than_it():
    frame = bytearray(encoded(Image.new("RGB", (2, 2), (0, 255, 0)).quantize(2), "GIF"))
    frame[6:10] = struct.pack("<2H", 3, 2)  # of the whole picture
    green, white = [0, 255, 0], [255, 255, 255]
    assert pixels(bytes(frame)) == [green, green, white] * 2


# --- what is refused -------------------------------------------------------------------------------

FLOATS = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
REFUSED = {
    "floats": (encoded(FLOATS, "TIFF"), "has floating-point pixels, whose white is not defined: scale it,"),
    "packed floats": (encoded(FLOATS, "TIFF", compression="tiff_lzw"), "has floating-point pixels"),
    "floats in a PFM": (b"Pf 2 1 -1.0\n" + struct.pack("<2f", 0, 1), "has floating-point pixels"),
    "floats of 16 bits": (
        tiff(2, 1, {258: (16,), 262: (1,), 339: (3,)}, struct.pack("<2e", 0, 1)),
        r"is not a readable image \(neither JPEG, .*, or of an unknown pixel format\): replace",
    ),
    "32 bits": (encoded(Image.fromarray(np.array([[0, 255]], np.int32)), "TIFF"), "has signed pixels,"),
    "32 bits, unsigned": (tiff(1, 1, {258: (32,), 262: (1,)}, b"\0\0\0\1"), "has 32-bit or signed pixels,"),
    "16 bits, signed": (tiff(1, 1, {258: (16,), 262: (1,), 339: (2,)}, b"\1\1"), "has signed pixels,"),
    "8 bits, signed": (tiff(1, 1, {258: (8,), 262: (1,), 339: (2,)}, b"\x80"), "has signed pixels,"),
    "LAB": (encoded(ImageCms.profileToProfile(
        COLOURS, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    ), "TIFF"), "has LAB pixels: convert it to RGB"),
    "YCbCr that share colours": (
        tiff(2, 2, {258: (8, 8, 8), 262: (6,)}, bytes(12)),
        "has YCbCr pixels that share their colours: convert it to RGB",
    ),
    "16 bits and a transparent colour": (
        png(1, 16, 2, bytes(6), (b"tRNS", bytes(6))),
        "has 16-bit pixels and a transparent colour: save it with 8 bits",
    ),
    "another format": (encoded(RAMP, "ICO"), r"is not a readable image \(neither JPEG, "),
    "nothing": (b"", r"is not a readable image \(neither JPEG, "),
    "a PGM without pixels": (b"P5 3 1 255\n", "is not a readable image"),
    "a PGM of no levels": (b"P5 1 1 0\n\0", "is not a readable image"),
    "a PNG with a wrong checksum": (
        png(1, 8, 0, b"\7").replace(zlib.compress(b"\0\7"), zlib.compress(b"\0\7")[:-1] + b"x"),
        "is not a readable image",
    ),
}  # fmt: skip


@pytest.mark.reliability("unreadable-pixels")
@pytest.mark.parametrize("name", REFUSED)
def test_pixels_without_a_reading_are_refused_by_name(name):
    refused(*REFUSED[name])


SAMPLES = [content for content, _ in [*GREY.values(), *COLOUR.values(), *TRANSPARENT.values()]]


@pytest.mark.reliability("damaged-image")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_pixels_or_one_line(seed):
    """Changed bytes and truncation never cause an exception of Pillow."""
    rng = np.random.default_rng(seed)
    for content in SAMPLES:
        damaged = bytearray(content)
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(damaged[: rng.integers(1, 2 * len(damaged))]), "x").mode == "RGB"
        except UserError as error:
            assert "\n" not in str(error)


# --- frames ----------------------------------------------------------------------------------------


@pytest.mark.reliability("unusual-images")
@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("MPO", {})]
)
def test_of_several_frames_the_first_is_taken(kind, options):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    image = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), "x")
    assert image.info == {"frames": 2}
    assert np.abs(np.asarray(image, int) - [255, 0, 0]).max() <= 3
    assert decode(encoded(frames[0], "JPEG" if kind == "MPO" else kind, **options), "x").info == {}


def test_results_keep_their_order_and_few_wait():
    """Memory use depends on the number of threads, not on the number of images."""
    begun = []
    results = in_order(lambda number: begun.append(number) or number, range(1000), threads=3)
    assert next(results) == 0
    assert len(begun) <= 6
    assert list(results) == list(range(1, 1000))
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda number: 1 // number, [1, 0, 2], threads=2))
    assert list(in_order(io.BytesIO, [], threads=2)) == []
