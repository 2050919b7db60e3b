"""Image files with kinds of pixels that Pillow reads but does not write, and small folders of images."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from sharc_core.datasets import SOURCES


def folder_source(path: Path, data_dir: Path, **values):
    """Return an image_folder source."""
    kind = SOURCES.get("image_folder")
    return kind(kind.Settings(path=str(path), **values), data_dir)


def picture(seed: int = 0, size: tuple[int, int] = (6, 6), **options) -> bytes:
    """Return a small PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG", **options)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """Return an image as a file written by Pillow."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def fill(root: Path, names: list[str]) -> Path:
    """Write a different small image to each name below `root`."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))
    return root


def split_names(classes: list[str], train: int = 2, test: int = 1) -> list[str]:
    """Return the file names of a data set with split folders."""
    counts = {"train": train, "test": test}
    return [f"{s}/{c}/{i}.png" for s, count in counts.items() for c in classes for i in range(count)]


def png(width: int, bits: int, colour: int, row: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with one row of pixels. colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def tiff(width: int, height: int, tags: dict[int, tuple[int, ...]], data: bytes, order: str = "<") -> bytes:
    """Return an uncompressed TIFF of one strip. tags: 16-bit values, in addition to the required tags."""
    tags = {256: (width,), 257: (height,), 259: (1,), 278: (height,), 279: (len(data),)} | tags
    tags |= {273: (0,), 277: (len(tags[258]),)}
    packed = {tag: struct.pack(f"{order}{len(values)}H", *values) for tag, values in tags.items()}
    end = 8 + 2 + 12 * len(tags) + 4
    packed[273] = struct.pack(order + "H", end + sum(len(p) for p in packed.values() if len(p) > 4))
    entries, further = b"", b""
    for tag in sorted(tags):
        value = packed[tag]
        if len(value) > 4:
            further += value
            value = struct.pack(order + "I", end + len(further) - len(value))
        entries += struct.pack(order + "HHI", tag, 3, len(tags[tag])) + value.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(tags))
    return start + entries + struct.pack(order + "I", 0) + further + data
