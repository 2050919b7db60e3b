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
from sharc_core.figures.style import DOTTED, GREY, PLAIN, method_look, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import method_name, scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.studies.task_count.summary import places, summary
from sharc_core.studies.task_count.table import sentences

PANEL = (2.6, 2.3)  # inches
COSTS = {"task_seconds": "training, ms per task", "total_bytes": "bytes kept"}


def write_count_figure(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write task_count_growth.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    about = {
        "kind": "task_count",
        "title": "Longer and longer streams",
        "alt": "Accuracies and costs against the number of tasks. " + " ".join(sentences(rows)),
        "caption": "ACC (mean over seeds, with standard deviation), training time per task and bytes kept "
        "against the number of tasks. Dashed: plain; solid: with SHARC; dotted: SHARC with forgetting, "
        "once per associative memory. Grey: chance.",
        "origin": lineage(rows, config),
    }
    return write_figure(partial(count_figure, rows), Path(folder) / "task_count_growth", about)


def count_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a row per data set and backbone: a panel per scenario, then one per cost."""
    lines = summary(rows)
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
    if line.variant == "plain":
        kind = {"linestyle": PLAIN, "markerfacecolor": "white"}
    else:
        kind = {"linestyle": DOTTED if line.forget_every else "-"}
    return kind | {"markersize": 4, "elinewidth": 0.8, "linewidth": 1.1}


def _legend(figure: Figure, lines: pd.DataFrame) -> None:
    """Name methods by colour and marker, and kinds of cells by their line."""
    methods = list(dict.fromkeys(lines.method))
    handles = []
    for method in methods:
        colour, marker = method_look(method, methods)
        name = method_name(method).replace("$", r"\$")
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=4, label=name))
    kinds: dict[str, Any] = {"plain": PLAIN, "with SHARC": "-", "SHARC, forgetting": DOTTED}
    is_there = [
        (lines.variant == "plain").any(),
        ((lines.variant == "sharc") & (lines.forget_every == 0)).any(),
        (lines.forget_every > 0).any(),
    ]
    handles += [
        Line2D([], [], color=GREY, linestyle=dash, label=name)
        for (name, dash), there in zip(kinds.items(), is_there, strict=True)
        if there
    ]
    figure.legend(handles=handles, loc="outside right center")
