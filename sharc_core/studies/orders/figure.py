"""The figure of the study `orders`: ACC on every class order, and deviations over orders and over seeds."""

import math
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.figures.style import GREY, method_look, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.studies.orders.table import GAIN, PLACE, sentences, stream_key, summary

PANEL = (2.7, 2.3)  # inches


def write_order_figure(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write orders_variance.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    about = {
        "kind": "orders",
        "title": "Class orders and blurry tasks",
        "alt": "ACC by stream and its deviations over orders and seeds. " + " ".join(sentences(rows)),
        "caption": "Left: ACC by stream, a line per class order (mean over seeds). Right: standard deviation "
        "of ACC over class orders against that over seeds, on every stream; above the diagonal the order "
        "matters more. Bars: 95 % intervals of the deviation over orders.",
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
            accuracies, deviations = row[2 * number : 2 * number + 2]
            _accuracies(accuracies, _at(rows, key), methods)
            accuracies.set_title(f"{scenario_name(scenario)}, {place[0]}".replace("$", r"\$"))
            _deviations(deviations, _at(lines, key), methods)
    _legend(figure, lines, methods)
    return figure


def _at(frame: pd.DataFrame, key: tuple[str, str, str]) -> pd.DataFrame:
    return frame[(frame[PLACE] == list(key)).all(axis=1)]


def _accuracies(panel: Axes, rows: pd.DataFrame, methods: list[str]) -> None:
    streams = unique(rows.stream, stream_key)
    keys = ["method", "variant", "class_order", "stream"]
    means = rows.groupby(keys, sort=False).acc.mean().reset_index()
    for (method, variant, _), own in means.groupby(keys[:3], sort=False):
        colour, _ = method_look(method, methods)
        at = [streams.index(name) for name in own.stream]
        order = sorted(range(len(at)), key=at.__getitem__)
        panel.plot(
            [at[i] for i in order],
            [own.acc.iloc[i] for i in order],
            color=colour,
            linestyle="-" if variant == "sharc" else "--",
            linewidth=0.7,
        )
    panel.set_xticks(range(len(streams)), streams, rotation=20)
    panel.set_ylabel("ACC, %")


def _deviations(panel: Axes, lines: pd.DataFrame, methods: list[str]) -> None:
    largest = 0.0
    for line in lines[lines.variant != GAIN].to_dict("records"):
        colour, marker = method_look(line["method"], methods)
        over_seeds = math.sqrt(max(0.0, line["seed"]) + line["residual"])
        order, low, high = (math.sqrt(max(0.0, line[f"order{end}"])) for end in ("", "_low", "_high"))
        panel.errorbar(
            over_seeds,
            order,
            yerr=[[max(0.0, order - low)], [max(0.0, high - order)]],
            fmt=marker,
            color=colour,
            markerfacecolor=colour if line["variant"] == "sharc" else "white",
            markersize=4,
            elinewidth=0.5,
        )
        largest = max(largest, over_seeds, order)
    panel.plot([0, 2 * largest], [0, 2 * largest], color=GREY, linewidth=0.8)
    panel.set_xlim(0, 1.15 * largest or 1)
    panel.set_ylim(0, 2 * largest or 1)
    panel.set_xlabel("deviation over seeds, points")
    panel.set_ylabel("over orders, points")


def _legend(figure: Figure, lines: pd.DataFrame, methods: list[str]) -> None:
    handles = []
    cells = lines[lines.variant != GAIN].drop_duplicates("label")
    for line in cells.to_dict("records"):
        colour, marker = method_look(line["method"], methods)
        is_sharc = line["variant"] == "sharc"
        handle = Line2D([], [], color=colour, marker=marker, linestyle="-" if is_sharc else "--")
        handle.set(markerfacecolor=colour if is_sharc else "white", label=line["label"].replace("$", r"\$"))
        handles.append(handle)
    figure.legend(handles=handles, loc="outside right center")
