"""Figures from cells and runs: learning curves, and accuracy against bytes. SVG and PNG, same bits twice.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; plain methods are dashed lines
and open markers, SHARC solid lines and filled ones, so that nothing depends on colour alone.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation

from sharc_core.files import atomic_path
from sharc_core.labels import bytes_text, method_key, method_name, natural_key, scenario_key, scenario_name
from sharc_core.metrics import learning_curve
from sharc_core.results import AXES, axes_of, matrix_array
from sharc_core.summary import Entry, row_key, summarise, unique

NAMES = ("learning_curves", "bytes")
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
BASELINES = {"joint": (0, (1, 1.2)), "sgd": (0, (3, 1.5))}  # level lines in the figure of bytes
FURTHER = (("#882255", "<"), ("#332288", ">"), ("#999933", "h"), ("#44aa99", "p"), ("#661100", "d"))
FRONT = "#b0b0b0"
PANEL = (3.3, 2.6)  # inches


def write_figures(cells: list[dict], runs: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write {learning_curves,bytes}_{scenario}.{svg,png} for every scenario in the runs; returns the paths.

    cells: the documents that the runs come from (the curves need their matrices).
    """
    entries, written = summarise(runs), []
    curves = curves_of(cells)
    for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
        chosen = [entry for entry in entries if entry.scenario == scenario]
        # "default": a user's own matplotlibrc must not change our figures
        with style.context(["default", STYLE]):
            drawn = dict(zip(NAMES, (_curves_figure(chosen, curves), _bytes_figure(chosen)), strict=True))
            for name, figure in drawn.items():
                written += save(figure, Path(folder) / f"{name}_{scenario}")
    return written


def curves_of(cells: list[dict]) -> dict[tuple, np.ndarray]:
    """Learning curves (R, T) in percent by the axes of an Entry."""
    found = {}
    for document in cells:
        for scenario in document["cell"]["scenarios"]:
            axes = axes_of(document["cell"], scenario)
            found[tuple(axes.values())] = learning_curve(matrix_array(document, scenario))
    return found


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
    return written


def _curves_figure(entries: Sequence[Entry], curves: dict[tuple, np.ndarray]) -> Figure:
    """Rows: data set (and backbone). Columns: buffer (and budget unit). Baselines are in every panel."""
    rows = _panels(entries)
    columns = sorted({(str(e.budget), e.buffer) for e in entries if e.buffer is not None}) or [("", None)]
    figure, axes = _grid(len(rows), len(columns))
    for (dataset, backbone), line in zip(rows, axes, strict=True):
        here = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]
        for (unit, buffer), panel in zip(columns, line, strict=True):
            shown = [e for e in here if e.buffer is None or (str(e.budget), e.buffer) == (unit, buffer)]
            for entry in sorted(shown, key=row_key):
                _draw_curve(panel, entry, curves[tuple(getattr(entry, name) for name in AXES)], entries)
            budget = "" if buffer is None else f", buffer {buffer}"
            budget += f" ({unit})" if len({u for u, _ in columns}) > 1 else ""
            panel.set_title(_panel_title(entries, dataset, backbone) + budget)
            panel.set_xlabel("tasks learned")
            panel.xaxis.get_major_locator().set_params(integer=True)
        line[0].set_ylabel("accuracy on tasks seen, %")
    _legend(figure, entries, lines=True)
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: learning curves, mean ± standard deviation")
    return figure


def _draw_curve(panel: Axes, entry: Entry, curve: np.ndarray, entries: Sequence[Entry]) -> None:
    colour, marker = look(entry.method, entries)
    mean, task = curve.mean(0), np.arange(1, curve.shape[1] + 1)
    evaluated = ~np.isnan(mean)
    if evaluated.sum() == 1:  # JOINT, or a stream of one task: a point, not a line
        panel.plot(task[evaluated], mean[evaluated], marker=marker, color=colour, markersize=7, clip_on=False)
        return
    panel.plot(task, mean, color=colour, linestyle="-" if entry.is_sharc else (0, (3, 1.5)))
    if len(curve) > 1:
        std = curve.std(0, ddof=1)
        panel.fill_between(task, mean - std, mean + std, color=colour, alpha=0.08, linewidth=0)


def _bytes_figure(entries: Sequence[Entry]) -> Figure:
    """A panel per data set (and backbone): total bytes, logarithmic, against ACC.

    SGD and JOINT are level lines: one keeps next to nothing, the other's data are not in its bytes. A
    marker below the line of SGD loses to having no memory at all.
    """
    panels = _panels(entries)
    width = min(len(panels), 3)
    figure, axes = _grid(-(-len(panels) // width), width, panel=(4.0, 3.2))
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    for (dataset, backbone), panel in zip(panels, axes.flat, strict=False):
        here = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]
        front = np.array(pareto_front(here)).reshape(-1, 2)
        panel.step(front[:, 0], front[:, 1], where="post", color=FRONT, linewidth=1, zorder=1)
        for entry in here:
            colour, marker = look(entry.method, entries)
            if entry.method in BASELINES:
                panel.axhline(entry.acc, color=colour, linestyle=BASELINES[entry.method], zorder=1.5)
                continue
            face = colour if entry.is_sharc or entry.buffer is None else "white"
            deviation = entry.std["acc"]
            panel.errorbar(
                entry.total_bytes,
                entry.acc,
                yerr=None if np.isnan(deviation) else deviation,
                fmt=marker,
                color=colour,
                markerfacecolor=face,
                markersize=6,
                elinewidth=0.8,
            )
        kept = [e.total_bytes for e in here if e.method not in BASELINES] or [e.total_bytes for e in here]
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(_BytesFormatter())
        panel.xaxis.set_minor_formatter(_BytesFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        panel.set_xlim(min(kept) / 1.4, max(kept) * 1.4)
        panel.set_title(_panel_title(entries, dataset, backbone))
        panel.set_xlabel("bytes kept besides the backbone")
        panel.set_ylabel("ACC, %")
    _legend(figure, entries, lines=False)
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: accuracy against bytes")
    return figure


class _BytesFormatter(LogFormatterSciNotation):
    """`3 MB` in place of 3 x 10^6, at the ticks that matplotlib would label."""

    def __call__(self, x, pos=None):
        label = super().__call__(x, pos)
        return bytes_text(x).replace(".00", "").replace(".0 ", " ") if label else ""


def pareto_front(entries: Sequence[Entry]) -> list[tuple[float, float]]:
    """(bytes, ACC) of the entries that none beats with no more bytes, by bytes; JOINT left out, because
    the data that it needs at once are not in its bytes.
    """
    front: list[tuple[float, float]] = []
    candidates = [e for e in entries if e.method != "joint"]
    for entry in sorted(candidates, key=lambda e: (e.total_bytes, -e.acc)):
        if not front or entry.acc > front[-1][1]:
            front.append((entry.total_bytes, entry.acc))
    return front


def look(method: str, entries: Sequence[Entry]) -> tuple[str, str]:
    """Colour and marker of a method; methods that users added share the further ones in order."""
    if method in COLOURS:
        return COLOURS[method], MARKERS[method]
    others = unique((e.method for e in entries if e.method not in COLOURS), str)
    return FURTHER[others.index(method) % len(FURTHER)]


def _panels(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    return unique(
        ((e.dataset, e.backbone) for e in entries), lambda p: (natural_key(p[0]), natural_key(p[1]))
    )


def _panel_title(entries: Sequence[Entry], dataset: str, backbone: str) -> str:
    several = len({entry.backbone for entry in entries}) > 1
    # a dollar sign would start a formula
    return (f"{dataset}, {backbone}" if several else dataset).replace("$", r"\$")


def _grid(rows: int, columns: int, panel: tuple[float, float] = PANEL) -> tuple[Figure, np.ndarray]:
    # outside the panels: a title above and a legend to the right
    figure = Figure(figsize=(panel[0] * columns + 1.2, panel[1] * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(figure: Figure, entries: Sequence[Entry], lines: bool) -> None:
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
            handles.append(Line2D([], [], color="#444444", linestyle=(0, (3, 1.5)), label="plain"))
            handles.append(Line2D([], [], color="#444444", linestyle="-", label="SHARC"))
        else:
            empty = {"color": "#444444", "marker": "o", "linestyle": ""}
            handles.append(Line2D([], [], **empty, markerfacecolor="white", label="plain"))
            handles.append(Line2D([], [], **empty, label="SHARC"))
    if not lines:
        handles.append(Line2D([], [], color=FRONT, linewidth=1, label="best at no\nmore bytes"))
    figure.legend(handles=handles, loc="outside right center")
