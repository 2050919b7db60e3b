"""Files in a folder, a zip or a tar, read in place: nothing is unpacked, so no path can escape."""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from sharc_core.errors import UserError
from sharc_core.files import digest

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MEMBER_LIMIT = 256 * 2**20  # bytes of one image file, unpacked: above it, a bomb and not a photograph
UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, RuntimeError)


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
                return {name: name for name in files}
            if self.kind == "zip":
                with zipfile.ZipFile(self.path) as archive:
                    found = [(i.filename, i.filename, not i.is_dir()) for i in archive.infolist()]
            else:
                with tarfile.open(self.path) as archive:
                    found = [(m.name, m.offset, m.isfile()) for m in archive]
        # an archive that was appended to may hold a name repeatedly: as in unpacking, the last one counts
        last = {_tidy(name): (where, is_file) for name, where, is_file in found}
        return {name: where for name, (where, is_file) in last.items() if is_file}

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
                        member = archive.getinfo(self._members[name])  # the last one of that name
                        self._limit(name, member.file_size)
                        try:
                            yield name, archive.read(member)
                        except UNREADABLE as error:
                            raise UserError(f"{self.path}: {name} is corrupt ({_one_line(error)})") from None
            else:
                wanted = {name: self._members[name] for name in names}
                with tarfile.open(self.path) as archive:
                    for member in archive:
                        name = _tidy(member.name)
                        if wanted.get(name) == member.offset:
                            self._limit(name, member.size)
                            yield name, archive.extractfile(member).read()

    def fingerprint(self) -> str:
        """Hash of names, sizes and times: changes when the files do, costs no reading."""
        files = (
            sorted(p for p in self.path.rglob("*") if p.is_file()) if self.kind == "folder" else [self.path]
        )
        found = []
        for file in files:
            status = file.stat()
            found.append([str(file.relative_to(self.path)), status.st_size, status.st_mtime_ns])
        return digest([str(self.path.resolve()), found], 16)

    def _limit(self, name: str, size: int) -> None:
        if size > MEMBER_LIMIT:
            raise UserError(
                f"{self.path}: {name} is {size:,} bytes unpacked: too large for an image, refused"
            )

    def _readable(self) -> "_Readable":
        return _Readable(self.path)


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


def _tidy(name: str) -> str:
    """One spelling per file: ./a, /a and a are the same one."""
    return str(PurePosixPath(name)).lstrip("/")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
