"""Read the arrays of .npy, .npz, .safetensors and .pt files in blocks of rows. Nothing is unpickled.

Opening a file reads names, shapes and types only, so that files larger than the memory can be read. parquet
files are read by array_tables.py.
"""

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError  # raised with weights_only=True
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError, shown
from sharc_core.datasets.archives import UNREADABLE

CLASS_NAMES = "class_names"  # optional array, or text in the metadata of a .safetensors file
HEADERS: dict[tuple[int, int], Callable] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}  # of .npy files; version 3 is for named fields, which no array here has
# Types of .safetensors files, by NumPy's names.
TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
TYPES |= {
    f"{letter}{bits}": f"{word}{bits}"
    for letter, word in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Array:
    """One array of a file.

    where: file and name, for messages. dtype: name of the type, NumPy's where it has the type. rows: yields
    the array in order, in blocks of at most as many rows as it is called with.
    """

    where: str
    shape: tuple[int, ...]
    dtype: str
    rows: Callable[[int], Iterator[np.ndarray]]

    def read(self) -> np.ndarray:
        """Return the complete array."""
        blocks = list(self.rows(max(1, self.shape[0])))
        return np.concatenate(blocks) if blocks else np.empty(self.shape, self.dtype)


class ArrayFile:
    """A file of named arrays. A subclass reads one format and sets `names`."""

    names: list[str]

    def __init__(self, path: Path):
        self.path = path

    def array(self, name: str) -> Array:
        """Return one of the arrays `names`. Raises UserError for a type that is not numbers or text."""
        raise NotImplementedError  # abstract

    def class_names(self) -> list[str] | None:
        """Return the names of the labels 0, 1, ... if the file has them. Raises UserError."""
        if CLASS_NAMES not in self.names:
            return None
        array = self.array(CLASS_NAMES)
        values = array.read().tolist() if len(array.shape) == 1 else [None]
        return checked_names(values, array.where)


def checked_names(values: Any, where: str) -> list[str]:
    """Return names of classes. Raises UserError unless they are a list of different texts."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: must be a list of texts, the names of labels 0, 1, 2, ...")
    repeated = (
        [value for value in values if values.count(value) > 1] if len(set(values)) < len(values) else []
    )
    if repeated:
        raise UserError(f"{where}: {shown(repeated[0])} is the name of two classes: give each its own")
    return values


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert the errors of a file that is missing, damaged or protected to a one-line UserError."""
    try:
        yield
    except PermissionError:
        raise UserError(f"{path} may not be read: change its permissions") from None
    except (*UNREADABLE, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} cannot be read, it is corrupt or cut short ({reason}): get it again"
        ) from None


def numbers(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array. NumPy has no bfloat16, whose values float32 holds exactly."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


# --- .npy and .npz -------------------------------------------------------------------------------------


class Npy(ArrayFile):
    """A .npy file, whose only array has the name of the file."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.names = [path.stem]

    def array(self, name: str) -> Array:
        """Return the array. Raises UserError for a file that is damaged or holds Python objects."""
        return npy_array(str(self.path), self._opened)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with reading(self.path), open(self.path, "rb") as stream:
            yield stream


class Npz(ArrayFile):
    """A .npz file as of np.savez or np.savez_compressed. Its arrays are streamed, not loaded."""

    def __init__(self, path: Path):
        super().__init__(path)
        with reading(path), zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        self.names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]

    def array(self, name: str) -> Array:
        """Return an array. Raises UserError for a member that is damaged or holds Python objects."""
        return npy_array(f"{self.path}: {name}", partial(self._opened, f"{name}.npy"))

    @contextlib.contextmanager
    def _opened(self, member: str) -> Iterator[Any]:
        with reading(self.path), zipfile.ZipFile(self.path) as archive, archive.open(member) as stream:
            yield stream


def npy_array(where: str, opened: Callable[[], contextlib.AbstractContextManager]) -> Array:
    """Return the array of a stream in the .npy format. opened: opens the stream at its start."""
    with opened() as stream:
        shape, is_fortran, dtype = _header(stream, where)
    if dtype.hasobject:
        raise UserError(
            f"{where} holds Python objects, which only unpickling could read: save numbers, or names as text "
            "(labels.astype(str))"
        )

    def rows(count: int) -> Iterator[np.ndarray]:
        with opened() as stream:
            _header(stream, where)
            if is_fortran and len(shape) > 1:  # its rows are scattered over the file
                whole = np.frombuffer(_read(stream, dtype.itemsize * math.prod(shape), where), dtype)
                whole = whole.reshape(shape, order="F")
                yield from (whole[start : start + count] for start in range(0, shape[0], count))
                return
            for start in range(0, shape[0], count):
                block = (min(count, shape[0] - start), *shape[1:])
                content = _read(stream, dtype.itemsize * math.prod(block), where)
                yield np.frombuffer(content, dtype).reshape(block)

    return Array(where, shape, dtype.name if dtype.kind not in "US" else "text", rows)


def _header(stream: Any, where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a .npy stream: shape, whether columns are contiguous, and type."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in HEADERS:
            raise ValueError(f"format {version}")
        shape, is_fortran, dtype = HEADERS[version](stream)
        if not dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"{dtype} {shape}")
        return shape, is_fortran, dtype
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} is not an array in NumPy's format ({reason}): save it again") from None


def _read(stream: Any, size: int, where: str) -> bytes:
    """Read exactly `size` bytes."""
    content = stream.read(size)
    while len(content) < size and (more := stream.read(size - len(content))):
        content += more
    if len(content) < size:
        raise UserError(f"{where} is cut short: get the file again")
    return content


# --- .safetensors and .pt ------------------------------------------------------------------------------


class Safetensors(ArrayFile):
    """A .safetensors file. Its names of classes are a JSON list in the metadata."""

    def __init__(self, path: Path):
        super().__init__(path)
        with self._opened() as file:
            self.names, self._metadata = list(file.keys()), file.metadata() or {}

    def array(self, name: str) -> Array:
        """Return a tensor as an array."""
        with self._opened() as file:
            piece = file.get_slice(name)
            shape, kind = tuple(piece.get_shape()), str(piece.get_dtype())

        def rows(count: int) -> Iterator[np.ndarray]:
            with self._opened() as file:
                piece = file.get_slice(name)
                for start in range(0, shape[0], count):
                    yield numbers(piece[start : start + count])

        return Array(f"{self.path}: {name}", shape, TYPES.get(kind, kind), rows)

    def class_names(self) -> list[str] | None:
        """Return the list in the metadata. Raises UserError for one that is not a list of texts."""
        if CLASS_NAMES not in self._metadata:
            return None
        try:
            values = json.loads(self._metadata[CLASS_NAMES])
        except (ValueError, RecursionError):
            values = None
        return checked_names(values, f"{self.path}: {CLASS_NAMES} in the metadata")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        with reading(self.path), safe_open(self.path, framework="pt") as file:
            yield file


class TorchFile(ArrayFile):
    """A .pt file with a dict of tensors or lists. It is mapped into memory where torch can do so."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._content = self._loaded()
        if not isinstance(self._content, dict):
            raise UserError(
                f"{path} holds a {type(self._content).__name__}: save a dict of tensors, as in "
                "torch.save({'train_features': x, ...}, path)"
            )
        self.names = [name for name in self._content if isinstance(name, str)]

    def _loaded(self) -> Any:
        if not self.path.exists():
            raise UserError(f"{self.path} does not exist")
        try:
            with reading(self.path):
                is_mapped = zipfile.is_zipfile(self.path)  # older files can only be loaded
                return torch.load(self.path, map_location="cpu", weights_only=True, mmap=is_mapped)
        except UnpicklingError:
            raise UserError(
                f"{self.path} holds more than tensors, lists, numbers and text, and reading it could run "
                "code: save a dict of tensors only"
            ) from None
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:  # of a damaged pickle
            raise UserError(
                f"{self.path} cannot be read, it is corrupt ({type(error).__name__}): get it again"
            ) from None

    def array(self, name: str) -> Array:
        """Return a tensor, or a list of numbers or texts, as an array. Raises UserError for others."""
        where, value = f"{self.path}: {name}", self._content[name]
        if isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
            texts = np.array(value)
            return Array(where, texts.shape, "text", lambda count: _slices(texts, count))
        if isinstance(value, list | tuple):
            try:
                value = torch.tensor(value)
            except (TypeError, ValueError, RuntimeError):
                raise UserError(
                    f"{where} is a list of other things than numbers, or than texts, or of lists of "
                    "different lengths: save a tensor (torch.stack or torch.cat)"
                ) from None
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized:
            kind = value.layout if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserError(f"{where} is a {kind}: save a dense tensor or a list")
        tensor, dtype = value, str(value.dtype).removeprefix("torch.")
        return Array(where, tuple(tensor.shape), dtype, lambda count: map(numbers, _slices(tensor, count)))


def _slices(values: Any, count: int) -> Iterator[Any]:
    return (values[start : start + count] for start in range(0, len(values), count))
