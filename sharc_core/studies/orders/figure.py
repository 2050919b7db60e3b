"""The figure of the study `orders`: the error on every class order, and the deviations of ACC."""

import math
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from sharc_core.figures.style import method_look, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.studies.orders.table import GAIN, PARTS, PLACE, TASKS, sentences, stream_key, summary

PANEL = (2.9, 2.4)  # inches
LINEAR = 1.0  # percent: errors below it have a linear scale, so that an error of zero has a place
ERRORS = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)  # ticks, percent
LOOKS = {"order": ("o", "#000000"), "seed": ("s", "#0072b2"), "residual": ("D", "#b0b0b0")}  # of PARTS


def write_order_figure(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write orders_variance.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    about = {
        "kind": "orders",
        "title": "Class orders and blurry tasks",
        "alt": "Error by stream, and deviations of ACC by order, seed and residual. "
        + " ".join(sentences(rows)),
        "caption": "Left: error (100 - ACC) by stream, a line per class order (mean over seeds), dashed for "
        f"plain methods, on a logarithmic scale above {LINEAR:g} %. On blurry and i.i.d. streams an order is "
        "also a draw of the samples of each task. Right: on sharp tasks, the standard deviation of ACC by "
        "class order, seed and residual (their interaction). Bars: 95 % intervals; a bound below zero is "
        "drawn at zero.",
        "origin": lineage(rows, config),
    }
    return write_figure(partial(order_figure, rows), Path(folder) / "orders_variance", about)


def order_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a row per data set and backbone, and two columns per scenario."""
    lines = summary(rows)
    scenarios = unique(lines.scenario, scenario_key)
    places = list(dict.fromkeys(zip(rows.dataset, rows.backbone, strict=True)))
    figure, panels = panel_grid(len(places), 2 * len(scenarios), PANEL)
    methods = list(dict.fromkeys(lines.method))
    for row, place in zip(panels, places, strict=True):
        for number, scenario in enumerate(scenarios):
            key = (*place, scenario)
            errors, deviations = row[2 * number : 2 * number + 2]
            _errors(errors, _at(rows, key), methods)
            here = _at(lines, key)
            _deviations(deviations, here[(here.variant != GAIN) & (here.stream == TASKS)])
            for panel, name in ((errors, scenario_name(scenario)), (deviations, "sharp tasks")):
                panel.set_title(f"{name}, {place[0]}".replace("$", r"\$"))
    _legend(figure, lines, methods)
    return figure


def _at(frame: pd.DataFrame, key: tuple[str, str, str]) -> pd.DataFrame:
    return frame[(frame[PLACE] == list(key)).all(axis=1)]


def _errors(panel: Axes, rows: pd.DataFrame, methods: list[str]) -> None:
    """Draw a line per cell and class order. SGD errs 10 times as often as replay, hence the logarithm."""
    streams = unique(rows.stream, stream_key)
    keys = ["method", "variant", "class_order", "stream"]
    means = rows.groupby(keys, sort=False).acc.mean().reset_index()
    for (method, variant, _), own in means.groupby(keys[:3], sort=False):
        colour, _ = method_look(method, methods)
        at = [streams.index(name) for name in own.stream]
        order = sorted(range(len(at)), key=at.__getitem__)
        panel.plot(
            [at[i] for i in order],
            [100 - own.acc.iloc[i] for i in order],
            color=colour,
            linestyle="-" if variant == "sharc" else "--",
            linewidth=0.7,
        )
    panel.set_xticks(range(len(streams)), streams, rotation=20)
    panel.set_yscale("symlog", linthresh=LINEAR)
    low, high = 100 - means.acc.max(), 100 - means.acc.min()
    panel.set_ylim(0 if low < LINEAR else low / 1.15, max(1.15 * high, 0.1))
    panel.yaxis.set_major_locator(FixedLocator(ERRORS))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    panel.set_ylabel("100 - ACC, %")


def _deviations(panel: Axes, lines: pd.DataFrame) -> None:
    """Draw the deviation by every part with its interval, a row per cell."""
    largest = 0.0
    for row, line in enumerate(lines.to_dict("records")):
        for number, part in enumerate(PARTS):
            marker, colour = LOOKS[part]
            ends = (line[f"{part}{end}"] for end in ("", "_low", "_high"))
            value, low, high = (math.sqrt(max(0.0, end)) for end in ends)
            panel.errorbar(
                value,
                row + 0.25 * (number - 1),
                # a truncated estimate may round to just outside its interval
                xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                fmt=marker,
                color=colour,
                markersize=3,
                elinewidth=0.8,
                clip_on=False,
                label=part,
            )
            largest = max(largest, high)
    panel.set_xlim(0, 1.05 * largest or 1)
    panel.set_yticks(range(len(lines)), [label.replace("$", r"\$") for label in lines.label])
    panel.set_ylim(len(lines) - 0.5, -0.5)
    panel.set_xlabel("deviation of ACC, points")


def _legend(figure: Figure, lines: pd.DataFrame, methods: list[str]) -> None:
    handles = []
    cells = lines[lines.variant != GAIN].drop_duplicates("label")
    for line in cells.to_dict("records"):
        colour, _ = method_look(line["method"], methods)
        handle = Line2D([], [], color=colour, linestyle="-" if line["variant"] == "sharc" else "--")
        handle.set_label(line["label"].replace("$", r"\$"))
        handles.append(handle)
    for part in PARTS:
        marker, colour = LOOKS[part]
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=3, linestyle="-", label=part))
    figure.legend(handles=handles, loc="outside right center")
