"""Atomic writing of files and folders, so that no incomplete file is ever mistaken for a result."""

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sharc_core.common.errors import UserError

PART = ".part"  # ending of files and folders that are being written
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a full disk and of an exhausted quota


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Convert an OSError of a write (disk full, read-only, ...) to a one-line UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(f"disk full while writing {path}: free some space and run again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"cannot write {path}: {os.strerror(error.errno).lower()}") from error
        reason = error.strerror.lower() if error.strerror else " ".join(str(error).split())
        about = f" ({error.filename})" if error.filename else ""
        raise UserError(f"cannot write {path}: {reason or type(error).__name__}{about}") from error


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` on success, delete it on failure.

    Raises UserError when the system refuses the write.
    """
    path = Path(path)
    temporary, lock = _claim(path, _new_file)
    try:
        with disk_errors(path):
            yield temporary
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new temporary folder next to `path`; it replaces `path` on success and is deleted on failure.

    Several processes may do so at once. Each replaces the folder atomically where the system supports it, and
    the last one's stays. Raises UserError when the system refuses the write.
    """
    path = Path(path)
    temporary, lock = _claim(path, _new_folder)
    try:
        with disk_errors(path):
            yield temporary
            os.chmod(temporary, 0o755)
            _put_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def resumable_folder(path: Path | str, record: str, resume: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a folder like `atomic_folder`, but keep it if the process is killed or interrupted.

    record: name of a file in it that says how to go on; an interrupted folder without it is deleted, as after
    an error. resume: is asked whether work can go on in a folder that another process left; one that it
    declines is removed.
    """
    path = Path(path)
    temporary, lock = _claim(path, _new_folder, resume)
    try:
        with disk_errors(path):
            yield temporary
            os.chmod(temporary, 0o755)
            _put_folder(temporary, path)
        shutil.rmtree(temporary, ignore_errors=True)  # the old folder, if they were exchanged
    except BaseException as error:
        if isinstance(error, Exception) or not (temporary / record).exists():
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def left_bytes(path: Path | str) -> int:
    """Return the bytes of what is being written next to `path` or was left there by killed processes."""
    path, total = Path(path), 0
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
        for file in folder.rglob("*"):
            with contextlib.suppress(OSError):  # removed meanwhile
                total += file.stat().st_size
    return total


def _put_folder(temporary: Path, path: Path) -> None:
    """Rename a folder to `path`. Readers see the old or the new folder if the system can exchange them."""
    while True:
        try:
            os.replace(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if _exchange(temporary, path):
            return  # `temporary` is now the old one
        aside = tempfile.mkdtemp(PART, f".{path.name}.", path.parent)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.replace(path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step. Return False if unsupported. (Linux' own file systems support it.)"""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _claim(
    path: Path,
    make: Callable[[Path], tuple[Path, int]],
    resume: Callable[[Path], bool] = lambda left: False,
) -> tuple[Path, int]:
    """Create a temporary file or folder next to `path`. Return it and a descriptor that holds its lock.

    The kernel releases the lock when the process ends, even if it is killed. Temporary files without a lock
    were therefore left by killed jobs. The first one that `resume` accepts is returned, others are removed.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = None
        for leftover in sorted(path.parent.glob(f".{glob.escape(path.name)}.*{PART}")):
            with contextlib.suppress(OSError):
                descriptor, goes_on = os.open(leftover, os.O_RDONLY), False
                try:
                    if _lock(descriptor) and os.path.samestat(os.stat(leftover), os.fstat(descriptor)):
                        goes_on = resumed is None and resume(leftover)
                        if not goes_on:
                            _remove(leftover)
                finally:
                    if not goes_on:
                        os.close(descriptor)
                if goes_on:
                    resumed = leftover, descriptor
        if resumed is not None:
            return resumed
        while True:
            temporary, descriptor = make(path)
            # before it was locked, another process may have considered it abandoned and removed it
            if _lock(descriptor) is not False:
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(temporary), os.fstat(descriptor)):
                        return temporary, descriptor
            os.close(descriptor)


def _new_file(path: Path) -> tuple[Path, int]:
    descriptor, temporary = tempfile.mkstemp(PART, f".{path.name}.", path.parent)
    return Path(temporary), descriptor


def _new_folder(path: Path) -> tuple[Path, int]:
    while True:
        temporary = tempfile.mkdtemp(PART, f".{path.name}.", path.parent)
        with contextlib.suppress(FileNotFoundError):  # as above
            return Path(temporary), os.open(temporary, os.O_RDONLY)


def _lock(descriptor: int) -> bool | None:
    """Try to lock. Return True on success, False if another process holds the lock, None without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically. Raises UserError when the system refuses the write."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: object) -> None:
    """Write JSON atomically, with keys in their order. Raises ValueError for NaN (write None instead)."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path | str) -> dict:
    """Read a JSON object. Raises UserError naming a file that is missing, damaged or no JSON object."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:  # not text, not JSON, or a number of thousands of digits
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: delete it and run again")
    return content


def sha256_file(path: Path | str) -> str:
    """Return the hex SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_sha256(digits: str) -> str:
    """Return a SHA-256 shortened to 12 digits. The prefix keeps software from parsing it as a number."""
    return f"sha256:{digits[:12]}"


def digest(content: object, length: int = 8) -> str:
    """Return the first `length` hex digits of the SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]
