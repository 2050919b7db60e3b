"""Arrays that map a file, and rows of them that are read without leaving pages of the file in the process."""

import os
import warnings
import weakref
from pathlib import Path

import numpy as np

from sharc_core.common.deferred import torch

_FILES: "weakref.WeakValueDictionary[int, _File]" = weakref.WeakValueDictionary()  # by first byte in memory


class _File(np.memmap):
    """A mapped .npy file that is open for reading, too."""

    descriptor: int

    def __del__(self) -> None:
        if "descriptor" in vars(self):  # not in views of the array
            os.close(self.descriptor)


def map_rows(path: Path) -> torch.Tensor:
    """Map a .npy file, whose rows `read_rows` reads. Do not write to the tensor."""
    array = np.load(path, mmap_mode="r", allow_pickle=False).view(_File)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors and warns
        tensor = torch.from_numpy(array)
    if array.flags.c_contiguous and hasattr(os, "preadv"):
        array.descriptor = os.open(path, os.O_RDONLY)
        _FILES[tensor.untyped_storage().data_ptr()] = array
    return tensor


def read_rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return a copy of the rows index (n,) of values (N, ...).

    If `values` is of `map_rows`, they are read from the file. Pages of the map that were touched would count
    as memory of the process, which would grow to the size of all rows ever read. Raises OSError if the file
    became shorter.
    """
    file = _FILES.get(values.untyped_storage().data_ptr())
    if file is None or index.dtype == torch.bool or values.shape != file.shape or not len(index):
        return values[index]
    rows = torch.empty(len(index), *values.shape[1:], dtype=values.dtype)
    buffer, size = rows.numpy().data.cast("B"), rows[0].nbytes
    for at, number in enumerate(index.tolist()):
        if number < 0 or not _fill(buffer[at * size : (at + 1) * size], file, number * size):
            raise OSError(f"row {number:,} of {file.filename} cannot be read")
    return rows


def _fill(buffer: memoryview, file: _File, start: int) -> bool:
    """Read a file's values from byte `start` on until a buffer is full. Return False if they end before."""
    done = 0
    while done < len(buffer):  # a network's file system may return less than was asked for
        read = os.preadv(file.descriptor, [buffer[done:]], file.offset + start + done)
        if not read:
            return False
        done += read
    return True
