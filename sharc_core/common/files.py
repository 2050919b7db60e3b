"""Writing and checking files so that nothing half-written is ever taken for a result."""

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

PART = ".part"  # ending of what is being written
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk's own limit, the user's share of it


@contextlib.contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn whatever the system has against a write ('disk full', 'read-only' ...) into one line."""
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
    """Yield a temporary path beside `path`; rename it onto `path` on success, delete it on failure."""
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
    """Yield a fresh temporary folder beside `path`; it replaces `path` on success, vanishes on failure.

    Several processes may do so at once: each puts its folder there whole, the last one's stays.
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


def _put_folder(temporary: Path, path: Path) -> None:
    """Rename a folder onto `path`: whoever looks there finds the old or the new one, if the system can."""
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
    """Let two folders change places in one step; False where that cannot be done. (Linux's own disks can.)"""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _claim(path: Path, make: Callable[[Path], tuple[Path, int]]) -> tuple[Path, int]:
    """A temporary file or folder beside `path` and a descriptor that holds its lock.

    The lock is the kernel's and goes with the process, however that ends: what lies there without one
    was left by a job that was killed, and is removed.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
            _remove_abandoned(left)
        while True:
            temporary, descriptor = make(path)
            # another process may have taken it for abandoned before it was locked, and be removing it
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
    """Whether the lock was free (and is ours now) or is another's; None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _remove_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if _lock(descriptor):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def write_text(path: Path | str, text: str) -> None:
    """Write a whole text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: object) -> None:
    """Write JSON atomically; NaN is refused (write None), keys keep their order."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path | str) -> dict:
    """Read keys and values from JSON; a missing or damaged file is a UserError that names it."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, RecursionError) as error:  # no text, no JSON, or a number of thousands of digits
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no keys and values: delete it and run again")
    return found


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_sha256(digits: str) -> str:
    """A SHA-256 by its first digits. The prefix keeps a table's reader from taking it for a number."""
    return f"sha256:{digits[:12]}"


def digest(content: object, length: int = 8) -> str:
    """Short hex SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]
