"""Read pickles of arrays without running code from them.

A pickle is a program that may call any function by name. Data sets are nevertheless published as pickles.
This reader looks up no function. It has a substitute for every name in pickles of numpy arrays and refuses
all other names.
"""

import re
from pathlib import Path
from pickle import _Unpickler as Unpickler
from typing import Any, BinaryIO, Literal

import numpy as np

from sharc_core.common.errors import UserError

# The imported unpickler is the one in Python, whose memo is a dictionary. In the one in C, a memo index of
# two billion, in a pickle of ten bytes, fills 32 GB of memory.
NUMBERS_AND_TEXT = re.compile(r"[biuf][1248]|f16|[SU]\d+")


def load_pickle(stream: BinaryIO, where: Path | str) -> object:
    """Load dicts, lists, tuples, sets, text, bytes, numbers and numpy arrays of numbers or text.

    Text of Python 2 is read as Latin-1. where: the file's name in messages. Raises UserError for any other
    class, which it names, and for a damaged pickle.
    """
    try:
        return _Reader(stream, encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{where} {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle is a damaged program and may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where} is not a readable pickle, it is damaged or cut short ({reason})") from None


class _Reader(Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Return the substitute for a name that arrays need. Raises UserError for any other name."""
        package = module.replace("numpy._core", "numpy.core")  # numpy 2 renamed it
        if (package, name) not in FORMS:
            full_name = "".join(filter(str.isprintable, f"{module}.{name}"))[:100]
            raise UserError(
                f"is refused: it asks for {full_name}, and only arrays, dictionaries, lists, text and "
                "numbers are read: get it from its publisher"
            )
        return FORMS[package, name]


class _Array(np.ndarray):
    """An array that checks its pickled state before it takes it over."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, is_fortran, content = state
        if isinstance(content, str):  # Python 2
            content = content.encode("latin1")
        if not isinstance(content, bytes | bytearray):
            raise UserError("is refused: it holds an array of objects, and only numbers and text are read")
        checked = (1, tuple(map(int, shape)), _dtype(kind), bool(is_fortran), content)
        super().__setstate__(checked)  # type: ignore[arg-type]


class _Kind:
    """A pickled dtype: its code and its byte order, which the pickle sets as a state."""

    def __init__(self, code: str, *flags: bool):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not NUMBERS_AND_TEXT.fullmatch(code):
            raise UserError(f"is refused: it holds an array of {code!r}, and only numbers and text are read")
        self.code = code
        self.order: Any = "="

    def __setstate__(self, state: tuple) -> None:
        order, fields = state[1], state[2:5]
        if any(field is not None for field in fields):
            raise UserError("is refused: it holds an array of records, and only numbers and text are read")
        self.order = order.decode("ascii") if isinstance(order, bytes) else order


def _dtype(kind: object) -> np.dtype:
    if not isinstance(kind, _Kind):
        raise UserError("is refused: it holds an array whose type is not one of numbers or text")
    dtype = np.dtype(kind.code)
    return dtype if kind.order == "|" else dtype.newbyteorder(kind.order)


def _reconstruct(*_: object) -> _Array:
    return _Array(0, np.uint8)  # the requested size does not matter; the state sets shape and content


def _from_buffer(content: bytes, kind: object, shape: tuple, order: Literal["C", "F"]) -> np.ndarray:
    return np.frombuffer(content, _dtype(kind)).reshape(shape, order=order)


def _scalar(kind: object, content: str | bytes) -> np.generic:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, _dtype(kind), count=1)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise UserError(f"is refused: it asks for text in {encoding}")
    return text.encode("latin1")


def _empty() -> bytes:
    return b""


FORMS = {
    ("numpy", "ndarray"): None,  # occurs as an argument only
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,  # Python 3 writes bytes for Python 2 with it
    ("__builtin__", "bytes"): _empty,  # and empty bytes with this
}
