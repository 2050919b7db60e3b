"""The style that figures share: colours, markers, panels, axes, legends, and how files are written.

Colours are Okabe and Ito's, which colour-blind readers can distinguish. Plain methods have dashed lines and
open markers, SHARC solid lines and filled markers, so that no figure relies on colour alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter

from sharc_core.common.files import atomic_path
from sharc_core.common.formats import natural_key
from sharc_core.grid.sub_grid import DRAWN
from sharc_core.methods import traits
from sharc_core.results.display_names import method_key, method_name
from sharc_core.results.summary import Entry, unique
from sharc_core.results.table_formats import round_bytes_text

COLOURS = {
    "joint": "#000000",
    "sgd": "#8c8c8c",
    "gem": "#56b4e9",
    "agem": "#0072b2",
    "er": "#d55e00",
    "mer": "#e69f00",
    "derpp": "#009e73",
    "clser": "#cc79a7",
}
MARKERS = {"gem": "s", "agem": "D", "er": "o", "mer": "P", "derpp": "^", "clser": "v"} | {
    "joint": "*",
    "sgd": "X",
}
PLAIN = (0, (3, 1.5))  # dashes of plain methods
DOTTED = (0, (1, 1.2))  # level lines of methods that train on all tasks at once
# Colours and markers of all other methods; every pair of them differs, and colours repeat only after five.
_FURTHER_COLOURS = ("#882255", "#332288", "#999933", "#44aa99", "#661100")
_FURTHER_MARKERS = ("<", ">", "h", "p", "d", "H", "8")
FURTHER = tuple(
    (colour, _FURTHER_MARKERS[(turn + i) % len(_FURTHER_MARKERS)])
    for turn in range(len(_FURTHER_MARKERS))
    for i, colour in enumerate(_FURTHER_COLOURS)
)
FRONT = "#b0b0b0"  # of the Pareto front
GREY = "#444444"  # of legend entries that stand for all methods
BYTES_LABEL = "bytes kept, without the backbone"
PANEL = (3.3, 2.6)  # inches
# By kind of file, the metadata that would differ from run to run.
METADATA = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # TrueType, which journals accept
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def save(figure: Figure, base: Path) -> list[Path]:
    """Write base.svg, base.png and base.pdf, with the same bytes for the same figure; return the paths."""
    paths = []
    for kind in DRAWN:
        path = base.with_suffix(f".{kind}")
        drawing = BytesIO()  # a full disk confuses the PDF backend, so it draws into memory
        # the salt makes the ids in the SVG reproducible
        with matplotlib.rc_context({"svg.hashsalt": base.name}):
            figure.savefig(drawing, format=kind, metadata=METADATA[kind])
        with atomic_path(path) as temporary:
            temporary.write_bytes(drawing.getvalue())
        paths.append(path)
        figure.set_layout_engine("none")  # reuse the layout, which takes as long to compute as to draw
    return paths


# Multiples of a power of ten that may have a tick label, from fine to coarse.
TICKS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,))
MOST_TICKS = 5  # more labels overlap in a narrow panel


def bytes_axis(panel: Axes, values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with a range that includes the values and labels in kB, MB ...

    A method that keeps nothing has 0 bytes, which have no logarithm: it is left of the range of the others.
    If all have 0 bytes the range is around 1 byte.
    """
    panel.set_xscale("log")
    sizes = [value for value in values if value > 0] or [1.0]
    low, high = min(sizes) / 1.4, max(sizes) * 1.4
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)))]
    for multiples in TICKS:
        ticks = [m * power for power in powers for m in multiples if low <= m * power <= high]
        if len(ticks) <= MOST_TICKS:
            break
    panel.xaxis.set_major_locator(FixedLocator(ticks[:: len(ticks) // (MOST_TICKS + 1) + 1]))
    panel.xaxis.set_major_formatter(lambda x, _: round_bytes_text(x))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlim(low, high)


def look(method: str, entries: Sequence[Entry]) -> tuple[str, str]:
    """Return the colour and marker of a method; methods that users add take those of FURTHER in order."""
    return method_look(method, [entry.method for entry in entries])


def method_look(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """Return the colour and marker of a method among those of a figure."""
    if method in COLOURS:
        return COLOURS[method], MARKERS[method]
    others = unique((name for name in methods if name not in COLOURS), str)
    return FURTHER[others.index(method) % len(FURTHER)]


def level_dashes(method: str) -> tuple:
    """Return the line style of a method that is drawn as a level line."""
    return DOTTED if traits(method).joint else PLAIN


@dataclass(frozen=True)
class Place:
    """Entries that share a panel, whatever SHARC's settings: one data set, backbone, budget and buffer.

    level: the entries without a buffer (SGD, JOINT) of the same data set and backbone.
    """

    title: str
    entries: list[Entry]
    level: list[Entry]


def places(entries: Sequence[Entry]) -> list[Place]:
    """Return the places of the entries with a buffer, in order; their titles show what differs."""
    result = []
    budgets = unique(((str(e.budget), e.buffer) for e in entries if e.buffer is not None), lambda b: b)
    for dataset, backbone in panels(entries):
        of_panel = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]
        for unit, buffer in budgets:
            chosen = [e for e in of_panel if (str(e.budget), e.buffer) == (unit, buffer)]
            if chosen:
                title = f"{panel_title(entries, dataset, backbone)}, buffer {chosen[0].buffer_text}"
                title += f" ({unit})" if len({u for u, _ in budgets}) > 1 else ""
                result.append(Place(title, chosen, [e for e in of_panel if e.buffer is None]))
    return result


def panels(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return the (data set, backbone) pairs of the entries, in order."""
    return unique(
        ((e.dataset, e.backbone) for e in entries), lambda p: (natural_key(p[0]), natural_key(p[1]))
    )


def panel_title(entries: Sequence[Entry], dataset: str, backbone: str) -> str:
    """Return the data set, with the backbone where the entries have several."""
    several = len({entry.backbone for entry in entries}) > 1
    # matplotlib reads an unescaped dollar sign as the start of a formula
    return (f"{dataset}, {backbone}" if several else dataset).replace("$", r"\$")


def panel_grid(rows: int, columns: int, panel: tuple[float, float] = PANEL) -> tuple[Figure, np.ndarray]:
    """Return a figure with rows x columns panels. panel: their width and height in inches."""
    # with space for a title above the panels and a legend to their right
    figure = Figure(figsize=(panel[0] * columns + 1.2, panel[1] * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def acc_panels(entries: Sequence[Entry]) -> tuple[Figure, list[tuple[Axes, list[Entry]]]]:
    """Return a figure with a panel per data set and backbone for ACC against something, and their entries."""
    shown = panels(entries)
    width = min(len(shown), 3)
    figure, axes = panel_grid(-(-len(shown) // width), width, panel=(4.0, 3.2))
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    drawn = []
    for (dataset, backbone), panel in zip(shown, axes.flat, strict=False):
        panel.set_title(panel_title(entries, dataset, backbone))
        panel.set_ylabel("ACC, %")
        drawn.append((panel, [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]))
    return figure, drawn


def acc_point(panel: Axes, x: float, entry: Entry, entries: Sequence[Entry]) -> None:
    """Draw the ACC of an entry and its standard deviation at x; filled with SHARC, open without."""
    colour, marker = look(entry.method, entries)
    deviation = entry.std["acc"]
    panel.errorbar(
        x,
        entry.acc,
        yerr=None if math.isnan(deviation) else deviation,
        fmt=marker,
        color=colour,
        markerfacecolor=colour if entry.is_sharc else "white",
        markersize=6,
        elinewidth=0.8,
    )


def legend(figure: Figure, entries: Sequence[Entry], lines: bool, points_only: bool = False) -> None:
    """Add a legend for colours, markers and dashes.

    lines: of curves; otherwise of markers. points_only: baselines are markers too, and there is no front.
    """
    handles, has_sharc = [], any(e.is_sharc for e in entries)
    for method in unique((e.method for e in entries), method_key):
        colour, marker = look(method, entries)
        level = not lines and not points_only and traits(method).baseline
        point = traits(method).joint if lines else not level
        # as drawn: a method that has no SHARC rows is dashed, or has open markers
        is_plain = not any(e.is_sharc for e in entries if e.method == method)
        dash: Any = "" if point else level_dashes(method) if level else PLAIN if is_plain else "-"
        face = "white" if is_plain and not lines and not level else colour
        handle = Line2D([], [], color=colour, marker=marker if point else "", linestyle=dash)
        handle.set(markerfacecolor=face, label=method_name(method).replace("$", r"\$"))
        handles.append(handle)
    if has_sharc and lines:
        handles.append(Line2D([], [], color=GREY, linestyle=PLAIN, label="plain"))
        handles.append(Line2D([], [], color=GREY, linestyle="-", label="SHARC"))
    elif has_sharc:
        handles += open_and_filled()
    if not lines and not points_only:
        handles.append(Line2D([], [], color=FRONT, linewidth=1, label="Pareto front"))
    figure.legend(handles=handles, loc="outside right center")


def open_and_filled() -> list[Line2D]:
    """Return the legend entries for the open markers of plain methods and the filled ones of SHARC."""
    shape: dict[str, Any] = {"color": GREY, "marker": "o", "linestyle": ""}
    return [
        Line2D([], [], **shape, markerfacecolor="white", label="plain"),
        Line2D([], [], **shape, label="SHARC"),
    ]
