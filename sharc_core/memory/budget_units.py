"""The units of a budget, and sizes as they are written in a grid file."""

import re
from typing import Any, Literal

Unit = Literal["slots", "floats", "nonzero", "bytes", "total_bytes"]
IN_BYTES = ("bytes", "total_bytes")  # units of which an associative memory's state can be a part
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(B|kB|MB|GB)")
FACTORS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def is_size(value: Any) -> bool:
    """Return whether a value is written as a size, such as `100 kB`."""
    return isinstance(value, str) and bool(SIZE.fullmatch(value.strip()))


def bytes_of(value: Any) -> Any:
    """Return the bytes of a size in decimal units (`1.5 MB` is 1,500,000); any other value as it is.

    Raises ValueError for a size that is not a whole number of bytes.
    """
    if not is_size(value):
        return value
    number, unit = SIZE.fullmatch(value.strip()).groups()  # type: ignore[union-attr]  # is_size
    whole, _, part = number.partition(".")
    count, rest = divmod(int(whole + part) * FACTORS[unit], 10 ** len(part))
    if rest:
        raise ValueError(f"{value} is not a whole number of bytes")
    return count
