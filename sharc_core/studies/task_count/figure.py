"""The figure of the study `task_count`: accuracies, bytes and seconds against the number of tasks."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from sharc_core.common.formats import bytes_text
from sharc_core.figures.style import GREY, PLAIN, method_look, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import method_name, scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.studies.task_count.findings import sentences
from sharc_core.studies.task_count.summary import places, summary

PANEL = (2.6, 2.3)  # inches
LEGEND_ROWS, LEGEND_COLUMN = 12, 1.1  # rows that fit beside a panel, inches of a further column
COSTS = {"task_seconds": "training, CPU ms per task", "total_bytes": "bytes kept"}


def write_count_figure(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write task_count_growth.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    memories = ", ".join(drawn_memories(summary(rows)))
    about = {
        "kind": "task_count",
        "title": "Longer and longer streams",
        "alt": "Accuracies and costs against the number of tasks. " + " ".join(sentences(rows)),
        "caption": "ACC (mean over seeds, with standard deviation), CPU time of training per task and bytes "
        "kept against the number of tasks. Dashed: plain; solid: with SHARC and the associative memory that "
        f"ran on the longest stream ({memories or 'none'}), which never forgets. The table has the other "
        "cells. Grey: chance. A run on a short stream takes milliseconds, so its time per task is less sure.",
        "origin": lineage(rows, config),
    }
    return write_figure(partial(count_figure, rows), Path(folder) / "task_count_growth", about)


def count_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a row per data set and backbone: a panel per scenario, then one per cost."""
    lines = drawn(summary(rows))
    scenarios, groups = unique(lines.scenario, scenario_key), list(places(lines))
    figure, panels = panel_grid(len(groups), len(scenarios) + len(COSTS), PANEL)
    for row, (place, own) in zip(panels, groups, strict=True):
        for panel, scenario in zip(row, scenarios, strict=False):
            here = own[own.scenario == scenario]
            panel.set_title(f"{scenario_name(scenario)}, {place[0]}".replace("$", r"\$"))
            panel.set_ylabel("ACC, %")
            chance = here.drop_duplicates("tasks").sort_values("tasks")
            panel.plot(chance.tasks, chance.chance, color=GREY, linewidth=0.8)
            _curves(panel, here, "acc_mean", "acc_std")
            panel.set_ylim(bottom=0)
        for panel, (name, title) in zip(row[len(scenarios) :], COSTS.items(), strict=True):
            panel.set_yscale("log")
            panel.set_title(title)
            once = own.drop_duplicates(["label", "tasks"])
            scale = 1000 if name == "task_seconds" else 1
            _curves(panel, once.assign(**{name: scale * once[name]}), name)
            if name == "total_bytes":
                panel.yaxis.set_major_formatter(lambda y, _: bytes_text(y))
    _legend(figure, lines)
    return figure


def drawn_memories(lines: pd.DataFrame) -> list[str]:
    """Return the associative memory of the longest streams with SHARC, of each data set and backbone."""
    sharc = lines[lines.variant == "sharc"].sort_values("tasks", ascending=False, kind="stable")
    return list(dict.fromkeys(own.associative_memory.iloc[0] for _, own in places(sharc)))


def drawn(lines: pd.DataFrame) -> pd.DataFrame:
    """Return the lines that the figure shows: plain ones, and SHARC's with one memory per data set."""
    kept = []
    for _, own in places(lines):
        memories = drawn_memories(own)
        is_shown = own.associative_memory.isin(memories) & (own.forget_every == 0)
        kept.append(own[(own.variant == "plain") | is_shown])
    return pd.concat(kept)


def _curves(panel: Axes, lines: pd.DataFrame, name: str, deviation: str | None = None) -> None:
    methods = list(dict.fromkeys(lines.method))
    for label in dict.fromkeys(lines.label):
        own = lines[lines.label == label].sort_values("tasks")
        colour, marker = method_look(own.method.iloc[0], methods)
        spread = None if deviation is None else own[deviation].fillna(0)
        panel.errorbar(own.tasks, own[name], yerr=spread, color=colour, marker=marker, **_line(own.iloc[0]))
    panel.set_xscale("log")
    counts = np.sort(lines.tasks.unique())
    panel.xaxis.set_major_locator(FixedLocator(counts.tolist()))
    panel.xaxis.set_major_formatter(lambda x, _: f"{x:.0f}")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("tasks")


def _line(line: pd.Series) -> dict:
    """Return the keywords of a curve: open markers and dashes for plain cells."""
    is_plain = line.variant == "plain"
    kind = {"linestyle": PLAIN, "markerfacecolor": "white"} if is_plain else {"linestyle": "-"}
    return kind | {"markersize": 4, "elinewidth": 0.8, "linewidth": 1.1}


def _legend(figure: Figure, lines: pd.DataFrame) -> None:
    """Name methods by colour and marker, and kinds of cells by their line."""
    methods = list(dict.fromkeys(lines.method))
    handles = []
    for method in methods:
        colour, marker = method_look(method, methods)
        name = method_name(method).replace("$", r"\$")
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4, label=name))
    kinds: dict[str, Any] = {"plain": ("plain", PLAIN), "sharc": ("with SHARC", "-")}
    handles += [
        Line2D([], [], color=GREY, linestyle=dash, label=name)
        for variant, (name, dash) in kinds.items()
        if (lines.variant == variant).any()
    ]
    columns = -(-len(handles) // LEGEND_ROWS)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + (columns - 1) * LEGEND_COLUMN, height)
    figure.legend(handles=handles, loc="outside right center", ncols=columns)
