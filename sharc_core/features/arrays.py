"""The .npy files of a feature folder, written batch by batch, so that a later process can go on with them."""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, write_json

PROGRESS = "progress.json"  # of a folder that is being written
SECONDS_BETWEEN_RECORDS = 30
BLOCK = 2**20  # bytes hashed at a time


class ArrayWriter:
    """Appends to a .npy file of known shape and hashes it while writing.

    It uses plain writes instead of a memory map. On a full disk they raise an error, a map a bus error.
    resumed: number of bytes of an existing file to keep, and their hash; the file is continued after them.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype | type,
        resumed: tuple[int, Any] | None = None,
    ):
        self.path = path
        if resumed is not None:
            self.stream = open(path, "r+b")  # noqa: SIM115 (closed in finish or with the process)
            self.stream.truncate(resumed[0])
            self.stream.seek(resumed[0])
            self.hash = resumed[1]
            return
        self.stream = open(path, "w+b")  # noqa: SIM115 (as above)
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)
        self.stream.seek(0)
        self.hash = hashlib.sha256(self.stream.read())

    def append(self, values: torch.Tensor) -> None:
        """Write the next rows. Raises OSError on a full disk."""
        block = np.ascontiguousarray(values.numpy()).data
        self.stream.write(block)
        self.hash.update(block)

    def state(self) -> dict:
        """Return the entry that `finish` would return now."""
        self.stream.flush()
        return {"sha256": self.hash.hexdigest(), "bytes": self.stream.tell()}

    def finish(self) -> dict:
        """Close the file and return its entry in the manifest."""
        self.stream.close()
        return {"sha256": self.hash.hexdigest(), "bytes": self.path.stat().st_size}


class Progress:
    """What has been written of the folder `of`, a JSON-able value; it is recorded in the folder.

    rows: by split. files: their entries (`ArrayWriter.state`) when the rows were recorded.
    """

    def __init__(self, of: dict):
        self.of = of
        self.rows: dict[str, int] = {}
        self.files: dict[str, dict] = {}
        self._hashes: dict[str, Any] = {}
        self._recorded = time.perf_counter()

    def resume(self, folder: Path) -> bool:
        """Take over what an interrupted process recorded in a folder.

        Return False and take nothing if the folder is of something else, or if what was recorded is damaged.
        """
        try:
            record = read_json(folder / PROGRESS)
            if record["of"] != self.of:
                return False
            hashes = {
                name: _hash_of(folder / name, entry["bytes"]) for name, entry in record["files"].items()
            }
            if any(hashes[name].hexdigest() != entry["sha256"] for name, entry in record["files"].items()):
                return False
            self.rows, self.files, self._hashes = record["rows"], record["files"], hashes
        except (UserError, OSError, KeyError, TypeError, AttributeError):
            return False
        return True

    def writer(self, path: Path, shape: tuple[int, ...], dtype: np.dtype | type) -> ArrayWriter:
        """Return a writer of a file, which goes on after what was recorded."""
        if path.name not in self._hashes:
            return ArrayWriter(path, shape, dtype)
        return ArrayWriter(path, shape, dtype, (self.files[path.name]["bytes"], self._hashes[path.name]))

    def record(self, folder: Path, split: str, rows: int, writers: list[ArrayWriter]) -> None:
        """Record that so many rows of a split were written, if the last record is old enough."""
        now = time.perf_counter()
        if now - self._recorded >= SECONDS_BETWEEN_RECORDS:
            self.complete(split, rows, {writer.path.name: writer.state() for writer in writers})
            write_json(folder / PROGRESS, {"of": self.of, "rows": self.rows, "files": self.files})
            self._recorded = now

    def complete(self, split: str, rows: int, files: dict[str, dict]) -> None:
        """Take so many rows of a split and the entries of its files into the next record."""
        self.rows[split] = rows
        self.files |= files


def _hash_of(path: Path, size: int) -> Any:
    """Return the SHA-256 object of the first `size` bytes of a file. Raises OSError if it is shorter."""
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        while size:
            block = stream.read(min(size, BLOCK))
            if not block:
                raise OSError(f"{path} is too short")
            found.update(block)
            size -= len(block)
    return found


class InOrder:
    """Calls functions one after another, in another thread and up to `ahead` calls behind; 0: at once.

    A GPU computes the next batch while the last one is copied, hashed and written. On a CPU the backbone
    needs all cores. An error of a call is raised by a later one or by `wait`.
    """

    def __init__(self, ahead: int):
        self.ahead = ahead
        self._pool = ThreadPoolExecutor(1) if ahead else None
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> "InOrder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=kind is not None)

    def __call__(self, function: Callable, *arguments: Any) -> None:
        """Call the function, now or later. Raises an error of an earlier call."""
        if self._pool is None:
            function(*arguments)
            return
        self.wait(self.ahead - 1)
        self._waiting.append(self._pool.submit(function, *arguments))

    def wait(self, most: int = 0) -> None:
        """Return when at most so many calls have not ended."""
        while len(self._waiting) > most:
            self._waiting.popleft().result()
