"""Get archives of published data sets from a mirror folder, an earlier download or their server.

An archive is used only if its checksum is correct. It is read in place.
"""

import contextlib
import difflib
import hashlib
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

from pydantic import Field

from sharc_core.common.errors import Missing, UserError
from sharc_core.common.files import FULL, atomic_path
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.datasets.base import Progress, Source

SECONDS_BETWEEN_LINES = 5
TIMEOUT = 60  # seconds without a byte before a server counts as unreachable


@dataclass(frozen=True)
class Archive:
    """A file on a server. checksum: MD5 or SHA-256, hexadecimal. size: bytes, None if unknown."""

    name: str
    url: str
    checksum: str
    size: int | None

    def __str__(self) -> str:
        return f"{self.name} ({megabytes(self.size)})" if self.size else self.name


class ArchiveSource(Source):
    """Base of sources that are made from one archive. Subclasses implement `original` and `write`."""

    prepared_bytes: int  # size of the prepared images of the original archive

    class Settings(BaseSettings):
        """checksum: MD5 or SHA-256 of the archive, if it is not the original one."""

        checksum: str | None = Field(default=None, pattern=r"^([0-9a-f]{32}|[0-9a-f]{64})$")

    def original(self) -> Archive:
        """Return the published archive. Cheap."""
        raise NotImplementedError  # abstract

    def write(self, archive: Path, out: Path, progress: Progress) -> None:
        """Write the prepared folder from the archive, whose checksum has been verified."""
        raise NotImplementedError  # abstract

    def archive(self) -> Archive:
        """Return the original archive, or one of the same name with the checksum of the settings."""
        original, checksum = self.original(), self.settings.checksum
        if checksum is None or checksum == original.checksum:
            return original
        return replace(original, checksum=checksum, size=None)

    def identity(self) -> dict:
        """Return the settings and the archive's checksum. Needs no download."""
        return super().identity() | {"checksum": self.archive().checksum}

    def check(self, progress=None) -> None:
        """Check that a mirror, if set, holds the archive and that a local copy has the right size.

        Does not use the network. Raises Missing for a mirror without the archive, UserError for a wrong size.
        """
        archive = self.archive()
        path = find(archive, self.data_dir, self.mirror)
        if path is not None:
            _check_size(archive, path)

    def prepare(self, out, progress=None) -> None:
        """Get the archive if it is not local, and write the prepared folder from it."""
        archive = self.archive()
        if archive.size is not None:
            is_local = find(archive, self.data_dir, self.mirror) is not None
            needed = (0 if is_local else archive.size) + self.prepared_bytes
            require_space(self.data_dir, needed, f"{archive.name} and its prepared images")
        self.write(fetch(archive, self.data_dir, self.mirror, progress), out, progress)


def downloads(data_dir: Path) -> Path:
    """Return the folder of downloaded archives."""
    return data_dir / "downloads"


def find(archive: Archive, data_dir: Path, mirror: Path | None) -> Path | None:
    """Return the archive's path; None if it must be downloaded. Raises Missing when a mirror lacks it."""
    for folder in (mirror, downloads(data_dir)):
        if folder is not None and (folder / archive.name).is_file():
            return folder / archive.name
    if mirror is not None:
        raise Missing(
            f"the mirror {mirror} has no {archive}{_similar(archive.name, mirror)}: "
            f"put {archive.url} there under its own name"
        )
    return None


def fetch(archive: Archive, data_dir: Path, mirror: Path | None, progress: Progress = None) -> Path:
    """Return the path of the archive after verifying its checksum; download it if it is not local.

    Raises UserError when it cannot be downloaded, or its size or checksum is wrong.
    """
    path = find(archive, data_dir, mirror)
    if path is None:
        path = downloads(data_dir) / archive.name
        with atomic_path(path) as temporary:
            _download(archive, temporary, progress)
            _check(archive, temporary, f"what {archive.url} sent", "nothing was kept, try again later")
        return path
    _check_size(archive, path)
    _check(archive, path, str(path), _remedy(archive, path))
    return path


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise UserError when a folder's disk has fewer than `needed` free bytes. The folder need not exist."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"disk too small: {what} need {megabytes(needed)} in {folder}, {megabytes(free)} are free: make "
            "room or set data_dir to another disk"
        )


def megabytes(size: int) -> str:
    """Format a number of bytes as decimal megabytes."""
    return f"{size / 1e6:,.0f} MB"


def _download(archive: Archive, path: Path, progress: Progress) -> None:
    """Download the archive to the (empty) file at `path`. The caller verifies its checksum.

    Raises UserError when the server cannot be reached, OSError when the disk is full.
    """
    from torchvision.datasets.utils import download_url

    if progress:
        progress(f"downloading {archive} from {archive.url}")
    # torchvision treats an existing file as downloaded unless its MD5 differs; it supports MD5 only
    md5 = archive.checksum if len(archive.checksum) == 32 else "another kind"
    try:
        with _socket_timeout(), _reporting(path, archive, progress):
            download_url(archive.url, path.parent, path.name, md5)
    except RecursionError as error:  # more redirections than torchvision follows
        raise _unreachable(archive, path.parent, error) from error
    except RuntimeError:
        return  # "corrupted": the caller's check gives the details
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # the disk is full
        raise _unreachable(archive, path.parent, error) from error


def _unreachable(archive: Archive, folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(getattr(error, "reason", "") or error).split()) or type(error).__name__
    return UserError(
        f"cannot download {archive} from {archive.url} ({reason}){_similar(archive.name, folder)}: put that "
        f"file into {folder}, or into a folder that the grid file names as mirror"
    )


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    """Set a socket timeout. Without it, a server that accepts and never answers would block forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _reporting(path: Path, archive: Archive, progress: Progress) -> Iterator[None]:
    """Report the size of a growing file every few seconds."""
    done = threading.Event()

    def report() -> None:
        assert progress is not None
        of_total = f" of {megabytes(archive.size)}" if archive.size else ""
        while not done.wait(SECONDS_BETWEEN_LINES):
            progress(f"received {megabytes(path.stat().st_size)}{of_total}")

    reporter = threading.Thread(target=report, daemon=True)
    if progress:
        reporter.start()
    try:
        yield
    finally:
        done.set()
        if progress:
            reporter.join()


def _check_size(archive: Archive, path: Path) -> None:
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        problem = "is cut short" if size < archive.size else "is another file"
        sizes = f"it has {size:,} bytes, the original {archive.size:,}"
        raise UserError(f"{path} {problem}: {sizes}: {_remedy(archive, path)}")


def _check(archive: Archive, path: Path, what: str, remedy: str) -> None:
    kind = "md5" if len(archive.checksum) == 32 else "sha256"
    with open(path, "rb") as stream:
        checksum = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if checksum != archive.checksum:
        raise UserError(
            f"{what} is not {archive}: {path.stat().st_size:,} bytes whose {kind} is {checksum}, expected "
            f"{archive.checksum}: {remedy}"
        )


def _remedy(archive: Archive, path: Path) -> str:
    return f"delete {path} and get it again from {archive.url}, or state its checksum if it was repacked"


def _similar(name: str, folder: Path) -> str:
    """Return the names of similar files (misspelt or renamed) as a clause for a message; empty if none."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f", only {', '.join(close)}" if close else ""
