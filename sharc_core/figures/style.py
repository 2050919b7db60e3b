"""What all figures share: colours, markers, panels, legends, and how they are written.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; plain methods are dashed lines
and open markers, SHARC solid lines and filled ones, so that nothing depends on colour alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from sharc_core.common.files import atomic_path
from sharc_core.common.formats import bytes_text, natural_key
from sharc_core.results.display_names import method_key, method_name
from sharc_core.results.summary import Entry, unique

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
BASELINES = {"joint": (0, (1, 1.2)), "sgd": (0, (3, 1.5))}  # level lines in the figure of bytes
FURTHER = (("#882255", "<"), ("#332288", ">"), ("#999933", "h"), ("#44aa99", "p"), ("#661100", "d"))
FRONT = "#b0b0b0"
PANEL = (3.3, 2.6)  # inches
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
    "figure.dpi": 100,
    "savefig.dpi": 160,
}


def save(figure: Figure, base: Path) -> list[Path]:
    """Write base.svg and base.png, the same bytes for the same figure; returns the paths."""
    written = []
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        path = base.with_suffix(f".{kind}")
        # the salt makes the ids in the SVG repeatable, and different in each figure of one page
        with matplotlib.rc_context({"svg.hashsalt": base.name}), atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        written.append(path)
        figure.set_layout_engine("none")  # the second has the first's layout, which takes as long as drawing
    return written


def bytes_axis(panel: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis in kB, MB ... that has room for the values."""
    panel.set_xscale("log")
    low, high = min(values) / 1.4, max(values) * 1.4
    # labels at 1, 2 and 5 of a decade, or at decades alone: more of them overlap in a narrow panel
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))
    panel.xaxis.set_major_formatter(lambda x, _: bytes_text(x).replace(".00", "").replace(".0 ", " "))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlim(low, high)


def look(method: str, entries: Sequence[Entry]) -> tuple[str, str]:
    """Colour and marker of a method; methods that users added share the further ones in order."""
    if method in COLOURS:
        return COLOURS[method], MARKERS[method]
    others = unique((e.method for e in entries if e.method not in COLOURS), str)
    return FURTHER[others.index(method) % len(FURTHER)]


@dataclass(frozen=True)
class Place:
    """Entries that can stand in one panel whatever SHARC's settings: one data set, backbone and budget.

    level: the entries without a buffer (SGD, JOINT) of the same data set and backbone.
    """

    title: str
    entries: list[Entry]
    level: list[Entry]


def places(entries: Sequence[Entry]) -> list[Place]:
    """Places of the entries that have a buffer, in order; titles carry what differs between them."""
    found = []
    budgets = unique(((str(e.budget), e.buffer) for e in entries if e.buffer is not None), lambda b: b)
    for dataset, backbone in panels(entries):
        here = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]
        for unit, buffer in budgets:
            chosen = [e for e in here if (str(e.budget), e.buffer) == (unit, buffer)]
            if chosen:
                title = f"{panel_title(entries, dataset, backbone)}, buffer {buffer}"
                title += f" ({unit})" if len({u for u, _ in budgets}) > 1 else ""
                found.append(Place(title, chosen, [e for e in here if e.buffer is None]))
    return found


def panels(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """(data set, backbone) of the entries, in order."""
    return unique(
        ((e.dataset, e.backbone) for e in entries), lambda p: (natural_key(p[0]), natural_key(p[1]))
    )


def panel_title(entries: Sequence[Entry], dataset: str, backbone: str) -> str:
    """The data set, with the backbone where the entries have several."""
    several = len({entry.backbone for entry in entries}) > 1
    # a dollar sign would start a formula
    return (f"{dataset}, {backbone}" if several else dataset).replace("$", r"\$")


def panel_grid(rows: int, columns: int, panel: tuple[float, float] = PANEL) -> tuple[Figure, np.ndarray]:
    """A figure with rows x columns panels of that many inches each."""
    # outside the panels: a title above and a legend to the right
    figure = Figure(figsize=(panel[0] * columns + 1.2, panel[1] * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def legend(figure: Figure, entries: Sequence[Entry], lines: bool) -> None:
    """What colours, markers and dashes mean. lines: of curves; otherwise of markers."""
    handles = []
    for method in unique((e.method for e in entries), method_key):
        colour, marker = look(method, entries)
        level = not lines and method in BASELINES
        point = method == "joint" if lines else not level
        dash = "" if point else BASELINES[method] if level else "-"
        handle = Line2D([], [], color=colour, marker=marker if point else "", linestyle=dash)
        handle.set_label(method_name(method).replace("$", r"\$"))
        handles.append(handle)
    if any(e.is_sharc for e in entries):
        if lines:
            handles.append(Line2D([], [], color="#444444", linestyle=PLAIN, label="plain"))
            handles.append(Line2D([], [], color="#444444", linestyle="-", label="SHARC"))
        else:
            empty = {"color": "#444444", "marker": "o", "linestyle": ""}
            handles.append(Line2D([], [], **empty, markerfacecolor="white", label="plain"))
            handles.append(Line2D([], [], **empty, label="SHARC"))
    if not lines:
        handles.append(Line2D([], [], color=FRONT, linewidth=1, label="best at no\nmore bytes"))
    figure.legend(handles=handles, loc="outside right center")
