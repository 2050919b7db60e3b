"""The figure of the study `tune`: the validation ACC of every trial."""

import json
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from sharc_core.common.deferred import pandas as pd
from sharc_core.figures.style import GREY, PLAIN, STYLE, method_look, save
from sharc_core.results.display_names import scenario_name
from sharc_core.studies.tune.table import trials

PANEL = (3.6, 2.8)  # inches
LABELS = 4.0  # inches for the ids of cells
ROW = 0.22  # inches per cell


def write_tune_figure(rows: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write tune_trials.{svg,png,pdf} and return the paths. rows: of the jobs.

    If one number was tuned, the accuracy is drawn against it, with a line per cell. Otherwise every cell has
    a row of points. One panel per data set, backbone and scenario that decides.
    """
    lines = trials(rows)
    with style.context(["default", STYLE]):
        name = _only_number(lines)
        figure = _rows_figure(lines) if name is None else _lines_figure(lines, name)
        return save(figure, Path(folder) / "tune_trials")


def _panels(lines: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    return list(lines.groupby(["dataset", "backbone", "criterion"], sort=False))


def _lines_figure(lines: pd.DataFrame, name: str) -> Figure:
    groups, methods = _panels(lines), list(dict.fromkeys(lines.method))
    height = max(PANEL[1], ROW * (lines.cell.nunique() + 3))
    figure = Figure(figsize=(PANEL[0] * len(groups) + LABELS, height), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for panel, (place, group) in zip(panels, groups, strict=True):
        panel.set_title(_plain(", ".join(place[:2])))
        panel.set_ylabel(f"validation ACC, {scenario_name(place[2])}, %")
        _draw_lines(panel, group, name, methods)
    figure.legend(handles=_handles(lines, methods), loc="outside right center")
    return figure


def _rows_figure(lines: pd.DataFrame) -> Figure:
    groups, methods = _panels(lines), list(dict.fromkeys(lines.method))
    heights = [group.cell.nunique() + 4 for _, group in groups]
    figure = Figure(figsize=(PANEL[0] + LABELS, ROW * sum(heights) + 0.3), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (place, group) in zip(panels, groups, strict=True):
        panel.set_title(_plain(", ".join(place[:2])))
        panel.set_xlabel(f"validation ACC, {scenario_name(place[2])}, %")
        _draw_rows(panel, group, methods)
    figure.legend(handles=_marks(), loc="outside lower right", ncols=2)
    return figure


def _only_number(lines: pd.DataFrame) -> str | None:
    """Return the name of the setting if all trials have one setting, the same, and it is a number."""
    values = [json.loads(text) for text in lines.settings]
    names = {name for value in values for name in value}
    if len(names) != 1:
        return None
    (name,) = names
    is_number = all(isinstance(v[name], int | float) and not isinstance(v[name], bool) for v in values)
    return name if is_number else None


def _draw_lines(panel: Axes, group: pd.DataFrame, name: str, methods: list[str]) -> None:
    group = group.assign(x=[json.loads(text)[name] for text in group.settings]).dropna(subset="acc_mean")
    for _, cell in group.groupby("cell", sort=False):
        cell = cell.sort_values("x", kind="stable")
        colour, marker, dash = _looks(cell.iloc[0], methods)
        panel.plot(cell.x, cell.acc_mean, color=colour, marker=marker, markersize=3, linestyle=dash)
        _mark(panel, cell, cell.x, cell.acc_mean)
    if (group.x > 0).all() and group.x.max() > 5 * group.x.min():
        panel.set_xscale("log")
        panel.set_xticks(sorted(set(group.x)) if group.x.nunique() <= 8 else [])
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel(name.replace("_", " "))


def _draw_rows(panel: Axes, group: pd.DataFrame, methods: list[str]) -> None:
    names = list(dict.fromkeys(group.cell))
    for position, (_, cell) in enumerate(group.groupby("cell", sort=False)):
        colour, marker, _ = _looks(cell.iloc[0], methods)
        y = pd.Series(position, index=cell.index)
        panel.plot(cell.acc_mean, y, color=colour, marker=marker, markersize=3, linestyle="", alpha=0.6)
        _mark(panel, cell, cell.acc_mean, y)
    panel.set_yticks(range(len(names)), [_plain(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)


def _mark(panel: Axes, cell: pd.DataFrame, x: pd.Series, y: pd.Series) -> None:
    for column, marker, size in (("own", "s", 7), ("chosen", "o", 10)):
        at = cell[column]
        panel.plot(x[at], y[at], marker=marker, markersize=size, linestyle="", mfc="none", mec=GREY)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar sign would start a formula


def _looks(line: pd.Series, methods: list[str]) -> tuple[str, str, Any]:
    colour, marker = method_look(line.method, methods)
    return colour, marker, "-" if line.variant == "sharc" else PLAIN


def _handles(lines: pd.DataFrame, methods: list[str]) -> list[Line2D]:
    handles = []
    for _, line in lines.drop_duplicates("cell").iterrows():
        colour, marker, dash = _looks(line, methods)
        label = _plain(line.cell)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, linestyle=dash, label=label))
    return handles + _marks()


def _marks() -> list[Line2D]:
    return [
        Line2D([], [], marker=marker, markersize=size, linestyle="", mfc="none", mec=GREY, label=label)
        for marker, size, label in (("s", 7, "the grid's own settings"), ("o", 9, "chosen"))
    ]
