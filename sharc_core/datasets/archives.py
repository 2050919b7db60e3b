"""Files in a folder, a zip or a tar, read in place: nothing is unpacked, so no path can escape.

Limits keep what a hostile archive can cost small: the size of a file, their number, and how much larger
than the archive its content is. Links in archives are not followed. Those in a folder are: they are the
user's own, and a data set is often put together from them.
"""

import bz2
import contextlib
import errno
import gzip
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sharc_core.common.errors import Missing, UserError
from sharc_core.common.files import digest
from sharc_core.datasets.file_names import is_hidden, is_system_file, natural, with_slashes, zip_name
from sharc_core.datasets.threads import in_order

__all__ = ["TAR_ENDINGS", "Container", "natural"]

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
DECOMPRESSORS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by how a file begins
MEMBER_LIMIT = 256 * 2**20  # bytes of one file, unpacked: above it, a bomb and not a photograph
COUNT_LIMIT = 5_000_000  # files in one container
RATIO_LIMIT = 100  # unpacked bytes per byte of an archive: images hardly shrink
READERS = 8  # files of a folder that are read at once: disks and networks answer several at a time
SMALL = 2**30  # unpacked bytes that are never too many, whatever the ratio
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that unpack no more than is asked for
# Why something in a container is not read.
HIDDEN = "a hidden file, or in a hidden folder"
DANGLING = "a link that leads nowhere"
CYCLE = "a link to a folder that it lies in"
PACKED_LINK = "a link in an archive, which is not followed"
SPECIAL = "no regular file"
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


class Container:
    """A folder or an archive as a flat list of files, which is read once.

    Raises UserError, on opening, when the path is missing or not a readable folder, zip or tar.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if self.path.is_dir():
            self.kind = "folder"
        elif not self.path.exists():
            raise Missing(f"{path} does not exist: give a folder, a .zip or a .tar of images")
        elif self.path.name.lower().endswith(".zip"):
            self.kind = "zip"
        elif self.path.name.lower().endswith(TAR_ENDINGS):
            self.kind = "tar"
        else:
            raise UserError(f"{path} is neither a folder nor a .zip or .tar archive")

    def names(self) -> list[str]:
        """Return all files, none twice, as posix paths relative to the container.

        Hidden files and those that systems make for themselves (Thumbs.db, __MACOSX) are not among them.
        """
        return [name for name in self._files if not (is_hidden(name) or is_system_file(name))]

    def skipped(self) -> dict[str, str]:
        """Return what is not among `names`, and why. Systems' own files are not worth a word."""
        hidden = {name: HIDDEN for name in self._files if is_hidden(name)}
        return {name: why for name, why in (hidden | self._others).items() if not is_system_file(name)}

    @cached_property
    def _files(self) -> dict[str, str | int]:
        """By name, what finds the file again: its path, the zip's spelling of it, its offset in the tar."""
        return {name: where for name, (where, why) in self._members.items() if why is None}

    @cached_property
    def _others(self) -> dict[str, str]:
        """By name, why something is no file that can be read."""
        return {name: why for name, (_, why) in self._members.items() if why}

    @cached_property
    def _members(self) -> dict[str, tuple[str | int, str | None]]:
        """By name, where it is and why it is not read: None for a file, "" for a folder."""
        lists: dict[str, Callable[[], Iterator[tuple[str, str | int, str | None]]]] = {
            "folder": self._list_folder,
            "zip": self._list_zip,
            "tar": self._list_tar,
        }
        # an archive that was appended to may hold a name repeatedly: as in unpacking, the last one counts
        last: dict[str, tuple[str | int, str | None]] = {}
        with self._readable():
            for number, (name, where, why) in enumerate(lists[self.kind](), 1):
                if number > COUNT_LIMIT:
                    raise UserError(f"{self.path} holds more than {COUNT_LIMIT:,} files: refused, split it")
                last[self._inside(name)] = where, why
        return last

    def _list_folder(self) -> Iterator[tuple[str, str, str | None]]:
        """Walk through the folder, and through links to folders unless they lead back to where they lie."""
        pending: list[tuple[str, str, frozenset]] = [("", str(self.path), frozenset())]
        while pending:
            name, folder, above = pending.pop()
            status = os.stat(folder)
            place = status.st_dev, status.st_ino
            if place in above:
                yield name, name, CYCLE
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    inner = f"{name}/{entry.name}" if name else entry.name
                    kind = _kind(entry)
                    if kind == "":
                        pending.append((inner, entry.path, above | {place}))
                    yield inner, inner, kind

    def _list_zip(self) -> Iterator[tuple[str, str, str | None]]:
        with zipfile.ZipFile(self.path) as archive:
            self._limit_total(sum(member.file_size for member in archive.infolist()))
            for member in archive.infolist():
                name = zip_name(member)
                # Unix permissions lie in the upper half: a link's "content" is where it points
                why = PACKED_LINK if stat.S_ISLNK(member.external_attr >> 16) else None
                yield name, member.filename, "" if name.endswith("/") else why

    def _list_tar(self) -> Iterator[tuple[str, int, str | None]]:
        with self._open_tar() as archive:
            for member in archive:
                why = "" if member.isdir() else PACKED_LINK if member.issym() or member.islnk() else SPECIAL
                yield with_slashes(member.name), member.offset, None if member.isfile() else why
                # they are kept for a search by name, which nobody makes
                archive.members = []  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def _open_tar(self) -> Iterator[tarfile.TarFile]:
        """The tar, whose decompressed bytes are counted: a bomb is refused before it is in memory."""
        with open(self.path, "rb") as stream:
            start = stream.read(8)
        opened: Any = next((opens for magic, opens in DECOMPRESSORS.items() if start.startswith(magic)), open)
        with opened(self.path, "rb") as stream:
            counted: Any = _Counted(stream, self)  # as much of a file as tarfile uses
            with tarfile.open(fileobj=counted) as archive:
                yield archive

    def read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of the wanted files, each once: in their order, or for a tar in the archive's."""
        with self._readable():
            if self.kind == "folder":
                yield from in_order(self._read_file, names, READERS)
            elif self.kind == "zip":
                with zipfile.ZipFile(self.path) as archive:
                    for name in names:
                        yield name, self._read_zipped(archive, name)
            else:
                wanted = {name: self._files[name] for name in names}
                with self._open_tar() as archive:
                    for member in archive:
                        name = self._inside(with_slashes(member.name))
                        if wanted.get(name) == member.offset:
                            self._limit(name, member.size)
                            stream = archive.extractfile(member)
                            assert stream is not None  # it is a file
                            yield name, stream.read()
                        archive.members = []  # type: ignore[attr-defined]

    def _read_file(self, name: str) -> tuple[str, bytes]:
        path = self.path / name
        self._limit(name, path.stat().st_size)
        return name, path.read_bytes()

    def _read_zipped(self, archive: zipfile.ZipFile, name: str) -> bytes:
        member = archive.getinfo(str(self._files[name]))  # the last one of that name
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
        """Hash of path, names, sizes and times: changes when the files do, costs no reading.

        It is never part of a data set's identity: a copy has other times and the same content.
        """
        if self.kind != "folder":
            return fingerprint(self.path, {"": self.path})
        with self._readable():
            return fingerprint(self.path, {name: self.path / name for name in self.names()})

    def stated_checksums(self) -> dict[str, str] | None:
        """Checksums by name where the container states them, as a zip does; see `checksum`."""
        if self.kind != "zip":
            return None
        with self._readable(), zipfile.ZipFile(self.path) as archive:
            members = {name: archive.getinfo(str(where)) for name, where in self._files.items()}
        return {name: _crc(member.CRC, member.file_size) for name, member in members.items()}

    def checksum(self, content: bytes) -> str:
        """Return the checksum of a file's content, of the kind that tells this container's files apart."""
        if self.kind == "zip":
            return _crc(zlib.crc32(content), len(content))
        return hashlib.sha256(content).hexdigest()

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


def fingerprint(root: Path, files: Mapping[str, Path]) -> str:
    """Hash of a place and of the names, sizes and times of the files that are read there."""
    rows = []
    for name, path in sorted(files.items()):
        status = path.stat()
        # the time of the last change, too: a file that a copy with old times replaced has another one
        rows.append([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return digest([str(root.resolve()), rows], 16)


def _kind(entry: os.DirEntry) -> str | None:
    """Why an entry of a folder is not read: None for a file, "" for a folder. Links are followed."""
    try:
        if entry.is_dir():
            return ""
        if entry.is_file():
            return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return DANGLING
    return DANGLING if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL


def _crc(checksum: int, size: int) -> str:
    return f"crc32:{checksum:08x}:{size}"


class _Readable:
    """Context that turns a damaged container's many exceptions into one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, PermissionError):
            raise UserError(
                f"{error.filename or self.path} may not be read: change its permissions"
            ) from None
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
