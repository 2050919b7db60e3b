"""Names of files and classes: sort order, spelling, and recognising system files."""

import re
import struct
import unicodedata
import zipfile
import zlib
from pathlib import PurePosixPath

UTF8_FLAG = 0x800  # flag of a zip member whose name is UTF-8
UNICODE_PATH = 0x7075  # a zip member's extra field that holds its name in UTF-8
# Files and folders that operating systems create among a user's files; compared in lower case.
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
    """Return a sort key that puts 2.png before 10.png; the text itself breaks ties.

    Decimal digits of any script count as digits. Other digits (as in x²) count as letters, as in `int`.
    """
    # every second part is a number, so numbers are compared only with numbers
    parts = [_number(part) if odd % 2 else part for odd, part in enumerate(re.split(r"(\d+)", text))]
    return [parts, text]


def _number(digits: str) -> tuple[int, str]:
    """Return a sort key that orders decimal digits of any length as `int` would."""
    plain = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(plain), plain


def composed(text: str) -> str:
    """Return the text in Unicode's composed form (NFC). A macOS disk may hold the same name decomposed."""
    return unicodedata.normalize("NFC", text)


def is_system_file(name: str) -> bool:
    """Return whether macOS, Windows or a NAS creates files of this path for its own use."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(("._", "__MACOSX")) or part.lower() in SYSTEM_NAMES for part in parts)


def is_hidden(name: str) -> bool:
    """Return whether a part of a path begins with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def is_text(name: str) -> bool:
    """Return whether a name is valid text. Python represents bytes that are not UTF-8 as surrogates."""
    return not any(unicodedata.category(letter) == "Cs" for letter in name)


def with_slashes(name: str) -> str:
    """Return an archive member's name with slashes in place of Windows' backslashes.

    In a name that has slashes, a backslash is part of the name (of a Unix file, or in a Japanese code page).
    """
    return name if "/" in name else name.replace("\\", "/")


def zip_name(member: zipfile.ZipInfo) -> str:
    """Return a zip member's name as text, with slashes.

    Without the UTF-8 flag, the zip standard prescribes cp437, but macOS and many tools write UTF-8. So each
    part of the path that is valid UTF-8 is decoded as UTF-8. Info-ZIP's extra field takes precedence.
    """
    if member.flag_bits & UTF8_FLAG:
        return with_slashes(member.filename)
    try:
        raw = member.orig_filename.split("\0")[0].encode("cp437")
    except UnicodeEncodeError:  # zipfile did not decode this name from cp437
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
    """Return the name in Info-ZIP's Unicode path field; None unless its CRC matches the raw name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            try:
                return field[5:].decode("utf-8")
            except UnicodeDecodeError:
                return None
    return None
