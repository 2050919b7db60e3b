"""Archives of published data sets: from a mirror folder, from an earlier download, or from their server.

Whatever the way, an archive is used only when its checksum is right, and is read where it lies.
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
TIMEOUT = 60  # seconds without a byte after which a server counts as unreachable


@dataclass(frozen=True)
class Archive:
    """A file on a server. checksum: MD5 or SHA-256, hexadecimal. size: bytes, None when not known."""

    name: str
    url: str
    checksum: str
    size: int | None

    def __str__(self) -> str:
        return f"{self.name} ({megabytes(self.size)})" if self.size else self.name


class ArchiveSource(Source):
    """A source that is made from one archive. Subclasses say which and what is in it."""

    prepared_bytes: int  # of the original's prepared images

    class Settings(BaseSettings):
        """checksum: MD5 or SHA-256 of the archive, when it is not the original one."""

        checksum: str | None = Field(default=None, pattern=r"^([0-9a-f]{32}|[0-9a-f]{64})$")

    def original(self) -> Archive:
        """The archive as published; cheap."""
        raise NotImplementedError  # abstract

    def write(self, archive: Path, out: Path, progress: Progress) -> None:
        """Write the prepared folder from the archive, whose checksum was right."""
        raise NotImplementedError  # abstract

    def archive(self) -> Archive:
        """The archive that is asked for: the original, or another of its name by its checksum."""
        original, checksum = self.original(), self.settings.checksum
        if checksum is None or checksum == original.checksum:
            return original
        return replace(original, checksum=checksum, size=None)

    def identity(self) -> dict:
        """Settings and the archive's checksum: needs no download."""
        return super().identity() | {"checksum": self.archive().checksum}

    def check(self, progress=None) -> None:
        """Whether a mirror holds the archive and what lies there has its size; the network is not asked."""
        archive = self.archive()
        path = find(archive, self.data_dir, self.mirror)
        if path is not None:
            _check_size(archive, path)

    def prepare(self, out, progress=None) -> None:
        """Get the archive, unless it is there, and write the prepared folder from it."""
        archive = self.archive()
        if archive.size is not None:
            is_here = find(archive, self.data_dir, self.mirror) is not None
            needed = (0 if is_here else archive.size) + self.prepared_bytes
            require_space(self.data_dir, needed, f"{archive.name} and its prepared images")
        self.write(fetch(archive, self.data_dir, self.mirror, progress), out, progress)


def downloads(data_dir: Path) -> Path:
    """Where downloaded archives are kept."""
    return data_dir / "downloads"


def find(archive: Archive, data_dir: Path, mirror: Path | None) -> Path | None:
    """Where the archive lies; None when it has to be downloaded. Raises Missing when a mirror lacks it."""
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
    """Path of the archive, its checksum right. Raises UserError when it cannot be had or is another file."""
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
    """Raises UserError when the disk of a folder (which need not exist yet) has less than `needed` bytes."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"disk too small: {what} need {megabytes(needed)} in {folder}, {megabytes(free)} are free: make "
            "room or set data_dir to another disk"
        )


def megabytes(size: int) -> str:
    """A size as a text; decimal megabytes."""
    return f"{size / 1e6:,.0f} MB"


def _download(archive: Archive, path: Path, progress: Progress) -> None:
    """Fill the (empty) file at `path` from the server; whether it is the right one is checked elsewhere."""
    from torchvision.datasets.utils import download_url

    if progress:
        progress(f"downloading {archive} from {archive.url}")
    # torchvision takes a file that is there as downloaded, unless its MD5 differs; it knows MD5 alone
    md5 = archive.checksum if len(archive.checksum) == 32 else "another kind"
    try:
        with _patience(), _told(path, archive, progress):
            download_url(archive.url, path.parent, path.name, md5)
    except RecursionError as error:  # more redirections than it follows
        raise _unreachable(archive, path.parent, error) from error
    except RuntimeError:
        return  # "corrupted": our own check says how
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # no fault of the server's
        raise _unreachable(archive, path.parent, error) from error


def _unreachable(archive: Archive, folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(getattr(error, "reason", "") or error).split()) or type(error).__name__
    return UserError(
        f"cannot download {archive} from {archive.url} ({reason}){_similar(archive.name, folder)}: put that "
        f"file into {folder}, or into a folder that the grid file names as mirror"
    )


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Without a limit a server that accepts and says nothing would be waited for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _told(path: Path, archive: Archive, progress: Progress) -> Iterator[None]:
    """Lines about how large a growing file is by now."""
    done = threading.Event()

    def tell() -> None:
        assert progress is not None
        whole = f" of {megabytes(archive.size)}" if archive.size else ""
        while not done.wait(SECONDS_BETWEEN_LINES):
            progress(f"received {megabytes(path.stat().st_size)}{whole}")

    teller = threading.Thread(target=tell, daemon=True)
    if progress:
        teller.start()
    try:
        yield
    finally:
        done.set()
        if progress:
            teller.join()


def _check_size(archive: Archive, path: Path) -> None:
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        how = "is cut short" if size < archive.size else "is another file"
        raise UserError(
            f"{path} {how}: it has {size:,} bytes, the original {archive.size:,}: {_remedy(archive, path)}"
        )


def _check(archive: Archive, path: Path, what: str, remedy: str) -> None:
    kind = "md5" if len(archive.checksum) == 32 else "sha256"
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if found != archive.checksum:
        raise UserError(
            f"{what} is not {archive}: {path.stat().st_size:,} bytes whose {kind} is {found}, expected is "
            f"{archive.checksum}: {remedy}"
        )


def _remedy(archive: Archive, path: Path) -> str:
    return f"delete {path} and get it again from {archive.url}, or state its checksum if it was packed anew"


def _similar(name: str, folder: Path) -> str:
    """What is there instead, where it looks like it: a misspelt or renamed file."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f", only {', '.join(close)}" if close else ""
