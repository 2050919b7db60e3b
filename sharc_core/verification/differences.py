"""Where two texts differ first, in words."""

import csv
import io

SHOWN = 60  # characters of a line or field


def first_difference(found: str, made: str, is_csv: bool) -> str:
    """Where a file first is not what was made again: row and column of CSV, else the line."""
    return (_in_fields(found, made) if is_csv else None) or _in_lines(found, made)


def _in_fields(found: str, made: str) -> str | None:
    """None where it is not a field of a table under the same header."""
    try:
        ours, theirs = (list(csv.reader(io.StringIO(text))) for text in (found, made))
    except csv.Error:
        return None
    if ours[:1] != theirs[:1]:
        return None
    for number, (one, other) in enumerate(zip(ours[1:], theirs[1:], strict=False), 1):
        for column, a, b in zip(ours[0], one, other, strict=False):
            if a != b:
                return f"row {number} has {column} {a[:SHOWN]}, made again {b[:SHOWN]}"
    return None


def _in_lines(found: str, made: str) -> str:
    ours, theirs = found.splitlines(), made.splitlines()
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if one != other:
            differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
            start = max(0, next(differing, min(len(one), len(other))) - SHOWN // 2)
            cut = slice(start, start + SHOWN)
            return f"line {number} has {one[cut]!r}, made again {other[cut]!r}"
    if len(ours) != len(theirs):
        return f"{len(ours)} lines, made again {len(theirs)}"
    return "the same lines in other bytes"
