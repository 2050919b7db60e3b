"""Names of files and classes: their order, their spelling, and which of them only a system needs."""

import re
import struct
import unicodedata
import zipfile
import zlib
from pathlib import PurePosixPath

UTF8_FLAG = 0x800  # of a zip member: its name is UTF-8
UNICODE_PATH = 0x7075  # a zip member's extra field that holds its name in UTF-8
# Files and folders that systems leave beside a user's own; compared in lower case.
SYSTEM_NAMES = {
    "__macosx",
    ".ds_store",
    ".appledouble",
    ".fseventsd",
    ".localized",
    ".spotlight-v100",
    ".trashes",
    "icon\r",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "@eadir",
    ".directory",
}


def natural(text: str) -> list:
    """Sort key that puts 2.png before 10.png; the text itself breaks ties.

    Decimal digits of any script count. Digits that are none (as in x²) are letters, as for `int`.
    """
    # every second part is a number, so numbers are only ever compared with numbers
    parts = [_number(part) if odd % 2 else part for odd, part in enumerate(re.split(r"(\d+)", text))]
    return [parts, text]


def _number(digits: str) -> tuple[int, str]:
    """Sort key of decimal digits: as `int` orders them, but of any length."""
    plain = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(plain), plain


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC): a macOS disk may hold the same name decomposed."""
    return unicodedata.normalize("NFC", text)


def is_system_file(name: str) -> bool:
    """Whether a path is one of those that macOS, Windows or a NAS makes for itself."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(("._", "__MACOSX")) or part.lower() in SYSTEM_NAMES for part in parts)


def is_hidden(name: str) -> bool:
    """Whether a part of a path begins with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def is_text(name: str) -> bool:
    """Whether a name is text: Python keeps bytes that are not UTF-8 as halves of characters."""
    return not any(unicodedata.category(letter) == "Cs" for letter in name)


def with_slashes(name: str) -> str:
    """An archive member's name whose parts are separated by backslashes only, as on Windows, with slashes.

    Where there are slashes, a backslash belongs to the name: of a Unix file, or in a Japanese code page.
    """
    return name if "/" in name else name.replace("\\", "/")


def zip_name(member: zipfile.ZipInfo) -> str:
    """A zip member's name as text, with slashes.

    Without the flag for UTF-8 the standard says cp437, but macOS and many tools write UTF-8 all the same:
    each part of the path that is valid UTF-8 is read as that. Info-ZIP's extra field comes first.
    """
    if member.flag_bits & UTF8_FLAG:
        return with_slashes(member.filename)
    try:
        raw = member.orig_filename.split("\0")[0].encode("cp437")
    except UnicodeEncodeError:  # zipfile has read the name from somewhere else
        return with_slashes(member.filename)
    stated = _unicode_path(member.extra, raw)
    if stated is not None:
        return with_slashes(stated)
    if b"/" not in raw:
        raw = raw.replace(b"\\", b"/")
    return "/".join(_decoded(part) for part in raw.split(b"/"))


def _decoded(part: bytes) -> str:
    try:
        return part.decode("utf-8")
    except UnicodeDecodeError:
        return part.decode("cp437")


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name in Info-ZIP's Unicode path field; None without one that belongs to the raw name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            try:
                return field[5:].decode("utf-8")
            except UnicodeDecodeError:
                return None
    return None
