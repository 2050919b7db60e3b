"""Read files in a folder, a zip or a tar in place. Nothing is unpacked, so no path can escape.

Limits bound the cost of a hostile archive. They apply to the size of a file, the number of files and the
ratio of unpacked to packed bytes. Links in archives are not followed. Links in a folder are followed: the
user made them, and data sets are often assembled from links.
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
DECOMPRESSORS = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}  # by the first bytes of a file
MEMBER_LIMIT = 256 * 2**20  # unpacked bytes of one file; no photograph is larger
COUNT_LIMIT = 5_000_000  # files in one container
RATIO_LIMIT = 100  # unpacked bytes per byte of an archive; images hardly compress
READERS = 8  # files of a folder that are read at once; disks and networks serve several requests in parallel
SMALL = 2**30  # unpacked bytes that are accepted at any ratio
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # their readers unpack no more than requested
# Reasons why an entry of a container is not read.
HIDDEN = "a hidden file, or in a hidden folder"
DANGLING = "a broken link"
CYCLE = "a link to one of its parent folders"
PACKED_LINK = "a link in an archive, which is not followed"
SPECIAL = "not a regular file"
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
    """Present a folder or an archive as a flat list of files. The list is read once.

    Raises UserError when the path is missing or is not a folder, zip or tar (on construction), or cannot
    be read (on the first listing). A missing path raises Missing.
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
        """Return all files, without repetitions, as posix paths relative to the container.

        Hidden files and system files (Thumbs.db, __MACOSX) are left out.
        """
        return [name for name in self._files if not (is_hidden(name) or is_system_file(name))]

    def skipped(self) -> dict[str, str]:
        """Return the entries that `names` lacks and the reason for each, without system files."""
        hidden = {name: HIDDEN for name in self._files if is_hidden(name)}
        return {name: why for name, why in (hidden | self._others).items() if not is_system_file(name)}

    @cached_property
    def _files(self) -> dict[str, str | int]:
        """Map each name to the file's path, its name inside the zip, or its offset in the tar."""
        return {name: where for name, (where, why) in self._members.items() if why is None}

    @cached_property
    def _others(self) -> dict[str, str]:
        """Map the name of each entry that is not read to the reason."""
        return {name: why for name, (_, why) in self._members.items() if why}

    @cached_property
    def _members(self) -> dict[str, tuple[str | int, str | None]]:
        """Map each name to its location and why it is not read: None for a file, "" for a folder."""
        lists: dict[str, Callable[[], Iterator[tuple[str, str | int, str | None]]]] = {
            "folder": self._list_folder,
            "zip": self._list_zip,
            "tar": self._list_tar,
        }
        # an archive that was appended to may repeat a name; as in unpacking, the last one counts
        last: dict[str, tuple[str | int, str | None]] = {}
        with self._readable():
            for number, (name, where, why) in enumerate(lists[self.kind](), 1):
                if number > COUNT_LIMIT:
                    raise UserError(f"{self.path} holds more than {COUNT_LIMIT:,} files: refused, split it")
                last[self._inside(name)] = where, why
        return last

    def _list_folder(self) -> Iterator[tuple[str, str, str | None]]:
        """Walk through the folder and through links to folders, except links to a parent folder."""
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
                # the upper half holds Unix permissions; the content of a link is its target
                why = PACKED_LINK if stat.S_ISLNK(member.external_attr >> 16) else None
                yield name, member.filename, "" if name.endswith("/") else why

    def _list_tar(self) -> Iterator[tuple[str, int, str | None]]:
        with self._open_tar() as archive:
            for member in archive:
                why = "" if member.isdir() else PACKED_LINK if member.issym() or member.islnk() else SPECIAL
                yield with_slashes(member.name), member.offset, None if member.isfile() else why
                # tarfile keeps members for searches by name, which are not needed here
                archive.members = []  # type: ignore[attr-defined]

    @contextlib.contextmanager
    def _open_tar(self) -> Iterator[tarfile.TarFile]:
        """Open the tar and count its decompressed bytes, so that a bomb is refused before it fills memory."""
        with open(self.path, "rb") as stream:
            start = stream.read(8)
        opened: Any = next((opens for magic, opens in DECOMPRESSORS.items() if start.startswith(magic)), open)
        with opened(self.path, "rb") as stream:
            counted: Any = _Counted(stream, self)  # has the file methods that tarfile calls
            with tarfile.open(fileobj=counted) as archive:
                yield archive

    def read(self, names: list[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (name, content) of each file in `names`, in that order or, for a tar, the archive's order."""
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
            raise UserError(f"{self.path}: {name} uses a compression method other than deflate: repack it")
        try:
            with archive.open(member) as stream:
                # at most the stated size: longer content fails the checksum
                return stream.read(member.file_size)
        except UNREADABLE as error:
            raise UserError(f"{self.path}: {name} is corrupt ({_one_line(error)})") from None

    def fingerprint(self) -> str:
        """Return a hash of path, names, sizes and times. It changes when a file changes and reads no content.

        It is never part of a data set's identity, because a copy has other times and the same content.
        """
        if self.kind != "folder":
            return fingerprint(self.path, {"": self.path})
        with self._readable():
            return fingerprint(self.path, {name: self.path / name for name in self.names()})

    def stated_checksums(self) -> dict[str, str] | None:
        """Return the checksums by name that a zip states; None for a folder or tar. See `checksum`."""
        if self.kind != "zip":
            return None
        with self._readable(), zipfile.ZipFile(self.path) as archive:
            members = {name: archive.getinfo(str(where)) for name, where in self._files.items()}
        return {name: _crc(member.CRC, member.file_size) for name, member in members.items()}

    def checksum(self, content: bytes) -> str:
        """Return the checksum of a file's content: CRC-32 and size in a zip, else hex SHA-256."""
        if self.kind == "zip":
            return _crc(zlib.crc32(content), len(content))
        return hashlib.sha256(content).hexdigest()

    def _limit(self, name: str, size: int) -> None:
        if size > MEMBER_LIMIT:
            raise UserError(
                f"{self.path}: {name} is {size:,} bytes unpacked: too large for an image, refused"
            )

    def _limit_total(self, size: int) -> None:
        """Raise UserError when `size`, the unpacked bytes known so far, is too large for the archive."""
        packed = self.path.stat().st_size
        if size > max(SMALL, RATIO_LIMIT * packed):
            raise UserError(
                f"{self.path} has {packed:,} bytes and unpacks to {size:,} or more: refused as a "
                "decompression bomb"
            )

    def _inside(self, name: str) -> str:
        """Return the normal form of a name (./a and /a become a). Raises UserError for a path with `..`."""
        path = PurePosixPath(name)
        if ".." in path.parts:
            raise UserError(f"{self.path} holds a path that leads out of it, {name}: refused, repack it")
        return str(path).lstrip("/")

    def _readable(self) -> "_Readable":
        return _Readable(self.path)


def fingerprint(root: Path, files: Mapping[str, Path]) -> str:
    """Return a hash of a folder's path and of the names, sizes and times of the given files."""
    rows = []
    for name, path in sorted(files.items()):
        status = path.stat()
        # ctime differs even if a file was replaced by a copy that kept its old mtime
        rows.append([name, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return digest([str(root.resolve()), rows], 16)


def _kind(entry: os.DirEntry) -> str | None:
    """Return why a folder's entry is not read: None for a file, "" for a folder. Links are followed."""
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
    """Context manager that converts the exceptions of a damaged container to a one-line UserError."""

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
    """Stream of unpacked bytes that enforces its container's limits."""

    def __init__(self, stream: BinaryIO, container: Container):
        self.stream, self.container = stream, container

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes. Raises UserError when `size` exceeds the limit for one file."""
        self.container._limit("one of its headers or files", size)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        """Move to `position`. Raises UserError for a position beyond the container's limit.

        A compressed stream unpacks everything in between, so the limit is checked first.
        """
        self.container._limit_total(position)
        return self.stream.seek(position)

    def tell(self) -> int:
        """Return the position in unpacked bytes."""
        return self.stream.tell()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
