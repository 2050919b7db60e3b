"""Files in a folder, a zip or a tar, read in place: nothing is unpacked, so no path can escape.

Limits keep what a hostile archive can cost small: the size of a file, their number, and how much larger
than the archive its content is. Links in archives are not followed.
"""

import bz2
import contextlib
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sharc_core.errors import UserError
from sharc_core.files import digest

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by how a file begins
MEMBER_LIMIT = 256 * 2**20  # bytes of one file, unpacked: above it, a bomb and not a photograph
COUNT_LIMIT = 5_000_000  # files in one container
RATIO_LIMIT = 100  # unpacked bytes per byte of an archive: images hardly shrink
SMALL = 2**30  # unpacked bytes that are never too many, whatever the ratio
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that unpack no more than is asked for
UNREADABLE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    NotImplementedError,
)


def natural(text: str) -> list:
    """Sort key that puts 2.png before 10.png; the text itself breaks ties."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)], text]


class Container:
    """A folder or an archive as a flat list of files, which is read once.

    Raises UserError, on opening, when the path is missing or not a readable folder, zip or tar.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if self.path.is_dir():
            self.kind = "folder"
        elif not self.path.exists():
            raise UserError(f"{path} does not exist: give a folder, a .zip or a .tar of images")
        elif self.path.name.lower().endswith(".zip"):
            self.kind = "zip"
        elif self.path.name.lower().endswith(TAR_ENDINGS):
            self.kind = "tar"
        else:
            raise UserError(f"{path} is neither a folder nor a .zip or .tar archive")

    def names(self) -> list[str]:
        """All files, none twice, as posix paths relative to the container; no hidden ones or macOS extras."""
        return [
            name
            for name in self._members
            if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
        ]

    @cached_property
    def _members(self) -> dict[str, str | int]:
        """By name, what finds the file again: its path, the zip's spelling of it, its offset in the tar."""
        with self._readable():
            if self.kind == "folder":
                files = (p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())
                found = ((name, name, True) for name in files)
            elif self.kind == "zip":
                found = self._list_zip()
            else:
                found = self._list_tar()
            # an archive that was appended to may hold a name repeatedly: as in unpacking, the last one counts
            last: dict[str, tuple[str | int, bool]] = {}
            for number, (name, where, is_file) in enumerate(found, 1):
                if number > COUNT_LIMIT:
                    raise UserError(f"{self.path} holds more than {COUNT_LIMIT:,} files: refused, split it")
                last[self._inside(name)] = where, is_file
        return {name: where for name, (where, is_file) in last.items() if is_file}

    def _list_zip(self) -> Iterator[tuple[str, str, bool]]:
        with zipfile.ZipFile(self.path) as archive:
            self._limit_total(sum(member.file_size for member in archive.infolist()))
            for member in archive.infolist():
                # Unix permissions lie in the upper half: a link's "content" is where it points
                is_link = stat.S_ISLNK(member.external_attr >> 16)
                yield member.filename, member.filename, not (member.is_dir() or is_link)

    def _list_tar(self) -> Iterator[tuple[str, int, bool]]:
        with self._open_tar() as archive:
            for member in archive:
                yield member.name, member.offset, member.isfile()
                archive.members = []  # they are kept for a search by name, which nobody makes

    @contextlib.contextmanager
    def _open_tar(self) -> Iterator[tarfile.TarFile]:
        """The tar, whose decompressed bytes are counted: a bomb is refused before it is in memory."""
        with open(self.path, "rb") as stream:
            start = stream.read(8)
        opened = next((opens for magic, opens in DECOMPRESSORS.items() if start.startswith(magic)), open)
        with opened(self.path, "rb") as stream, tarfile.open(fileobj=_Counted(stream, self)) as archive:
            yield archive

    def read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of the wanted files, each once: in their order, or for a tar in the archive's."""
        with self._readable():
            if self.kind == "folder":
                for name in names:
                    path = self.path / name
                    self._limit(name, path.stat().st_size)
                    yield name, path.read_bytes()
            elif self.kind == "zip":
                with zipfile.ZipFile(self.path) as archive:
                    for name in names:
                        yield name, self._read_zipped(archive, name)
            else:
                wanted = {name: self._members[name] for name in names}
                with self._open_tar() as archive:
                    for member in archive:
                        name = self._inside(member.name)
                        if wanted.get(name) == member.offset:
                            self._limit(name, member.size)
                            yield name, archive.extractfile(member).read()
                        archive.members = []

    def _read_zipped(self, archive: zipfile.ZipFile, name: str) -> bytes:
        member = archive.getinfo(self._members[name])  # the last one of that name
        self._limit(name, member.file_size)
        if member.compress_type not in ZIP_METHODS:
            raise UserError(f"{self.path}: {name} is packed by another method than deflate: pack it anew")
        try:
            with archive.open(member) as stream:
                # never more than its stated size: what goes on beyond it does not fit its checksum
                return stream.read(member.file_size)
        except UNREADABLE as error:
            raise UserError(f"{self.path}: {name} is corrupt ({_one_line(error)})") from None

    def fingerprint(self) -> str:
        """Hash of names, sizes and times: changes when the files do, costs no reading."""
        return fingerprint(self.path)

    def _limit(self, name: str, size: int) -> None:
        if size > MEMBER_LIMIT:
            raise UserError(
                f"{self.path}: {name} is {size:,} bytes unpacked: too large for an image, refused"
            )

    def _limit_total(self, size: int) -> None:
        """Refuse an archive whose content, `size` bytes as far as known, is out of proportion."""
        packed = self.path.stat().st_size
        if size > max(SMALL, RATIO_LIMIT * packed):
            raise UserError(
                f"{self.path} has {packed:,} bytes and unpacks to {size:,} or more: a bomb, and no archive "
                "of images; refused"
            )

    def _inside(self, name: str) -> str:
        """One spelling per file (./a, /a and a are the same one); a path out of the archive is refused."""
        path = PurePosixPath(name)
        if ".." in path.parts:
            raise UserError(f"{self.path} holds a path that leads out of it, {name}: refused, pack it anew")
        return str(path).lstrip("/")

    def _readable(self) -> "_Readable":
        return _Readable(self.path)


def fingerprint(path: Path) -> str:
    """Hash of the names, sizes and times of a file, or of all files of a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found = []
    for file in files:
        status = file.stat()
        found.append([str(file.relative_to(path)), status.st_size, status.st_mtime_ns])
    return digest([str(path.resolve()), found], 16)


class _Readable:
    """Context that turns a damaged container's many exceptions into one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, UNREADABLE) and not isinstance(error, UserError):
            problem = f"{self.path} cannot be read, it is corrupt or cut short ({_one_line(error)})"
            raise UserError(f"{problem}: get it again") from None


class _Counted:
    """A stream of unpacked bytes that stops where its container's limits are reached."""

    def __init__(self, stream: BinaryIO, container: Container):
        self.stream, self.container = stream, container

    def read(self, size: int) -> bytes:
        """Up to `size` bytes. Raises UserError for a piece larger than any real archive has."""
        self.container._limit("one of its headers or files", size)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        """Go there, as tarfile does from file to file. Raises UserError for a position beyond the limit.

        A compressed stream unpacks all that lies between, so the limit comes first.
        """
        self.container._limit_total(position)
        return self.stream.seek(position)

    def tell(self) -> int:
        """Where it stands, in unpacked bytes."""
        return self.stream.tell()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
