"""The axes of a cell, which distinguish the cells of a grid.

Every axis is a column of runs.csv, and every axis but `scenario` is a field of Cell. The id of a cell, the
columns of runs.csv, the order of their rows and the settings that tables show are derived from here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sharc_core.common.files import digest


def digits(value: float) -> str:
    """Return a number with all its digits, so that two values never share a name."""
    return repr(float(value)).removesuffix(".0")


@dataclass(frozen=True)
class Axis:
    """One axis.

    column: type of its column in runs.csv. default: the value that the id of a cell leaves out. in_id: text
    of every other value in the id.
    """

    column: str = "str"
    default: Any = None
    in_id: Callable[[Any], str] = str


AXES = {
    "dataset": Axis(),
    "backbone": Axis(),
    "scenario": Axis(),
    "method": Axis(),
    "variant": Axis(),
    "buffer": Axis("Int64", in_id="m{}".format),
    "theta": Axis("float64", in_id=lambda value: f"theta{digits(value)}"),
    "mass": Axis("float64", in_id=lambda value: f"mass{value!r}"),
    "associative_memory": Axis(),
    "saliency": Axis(),
    "read": Axis(),
    "budget_unit": Axis(),
    "budget_split": Axis(
        default="equal", in_id=lambda value: value if isinstance(value, str) else f"split{digest(value, 6)}"
    ),
    "storage": Axis(default="float16"),
    "count_associative_memory": Axis("bool", default=False, in_id=lambda _: "am"),
    "importance": Axis(default="absolute"),
    "protocol": Axis(default="paper"),
}

# Parts of a cell's id, in this order. Data set and backbone are folders. `read` has one value per grid.
IN_ID = (
    "method",
    "variant",
    "buffer",
    "budget_unit",
    "count_associative_memory",
    "budget_split",
    "storage",
    "theta",
    "mass",
    "saliency",
    "associative_memory",
    "importance",
    "protocol",
)
# Rows of runs.csv are sorted by all axes, in this order.
SORTED_BY = (
    "scenario",
    "dataset",
    "backbone",
    "budget_unit",
    "budget_split",
    "storage",
    "buffer",
    "method",
    "variant",
    "theta",
    "mass",
    "associative_memory",
    "saliency",
    "read",
    "count_associative_memory",
    "importance",
    "protocol",
)
# Axes that only SHARC cells have.
OF_SHARC = (
    "theta",
    "mass",
    "associative_memory",
    "saliency",
    "importance",
    "read",
    "count_associative_memory",
)
# What tables show of a row as its settings, in this order.
SETTINGS = (*OF_SHARC, "protocol")
