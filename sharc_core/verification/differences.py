"""Describe the first difference between two texts."""

import csv
import io

SHOWN = 60  # characters shown of a line or field


def first_difference(actual: str, recomputed: str, is_csv: bool) -> str:
    """Return the place and content of the first difference: row and column in CSV, else the line."""
    return (_field_difference(actual, recomputed) if is_csv else None) or _line_difference(actual, recomputed)


def _field_difference(actual: str, recomputed: str) -> str | None:
    """Return the first field that differs; None if the headers differ or no field does."""
    try:
        actual_rows, new_rows = (list(csv.reader(io.StringIO(text))) for text in (actual, recomputed))
    except csv.Error:
        return None
    if actual_rows[:1] != new_rows[:1]:
        return None
    for number, (row, new_row) in enumerate(zip(actual_rows[1:], new_rows[1:], strict=False), 1):
        for column, value, new_value in zip(actual_rows[0], row, new_row, strict=False):
            if value != new_value:
                return f"row {number} has {column} {value[:SHOWN]}, recomputed {new_value[:SHOWN]}"
    return None


def _line_difference(actual: str, recomputed: str) -> str:
    actual_lines, new_lines = actual.splitlines(), recomputed.splitlines()
    for number, (line, new_line) in enumerate(zip(actual_lines, new_lines, strict=False), 1):
        if line != new_line:
            differing = (i for i, (a, b) in enumerate(zip(line, new_line, strict=False)) if a != b)
            start = max(0, next(differing, min(len(line), len(new_line))) - SHOWN // 2)
            cut = slice(start, start + SHOWN)
            return f"line {number} has {line[cut]!r}, recomputed {new_line[cut]!r}"
    if len(actual_lines) != len(new_lines):
        return f"{len(actual_lines)} lines, recomputed {len(new_lines)}"
    return "the lines are equal, but not their bytes (line endings or encoding)"
