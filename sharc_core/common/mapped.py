"""Arrays that map a file, and rows of them that leave no pages of the file in the process."""

import mmap
import warnings
import weakref
from pathlib import Path

import numpy as np

from sharc_core.common.deferred import torch

_ARRAYS: "weakref.WeakValueDictionary[int, np.memmap]" = weakref.WeakValueDictionary()  # by first byte


def map_rows(path: Path) -> torch.Tensor:
    """Map a .npy file, whose rows `read_rows` reads. Do not write to the tensor."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch has no read-only tensors and warns
        tensor = torch.from_numpy(array)
    _ARRAYS[tensor.untyped_storage().data_ptr()] = array
    return tensor


def read_rows(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return a copy of the rows index (n,) of values (N, ...).

    If `values` is of `map_rows`, the pages that were read are unmapped again. They stay in the system's page
    cache but no longer count as memory of the process, which would otherwise grow to the size of all rows
    ever read.
    """
    rows = values[index]
    array = _ARRAYS.get(values.untyped_storage().data_ptr())
    if array is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # numpy has no other access
    return rows
