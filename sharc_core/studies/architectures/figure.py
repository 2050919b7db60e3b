"""The figure of the study `architectures`: SHARC's gain against the share of zeros and the channel count."""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.figures.style import GREY, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.studies.architectures.comparison import Network, Setting, settings_of, shown
from sharc_core.studies.architectures.table import architecture_findings

PANEL = (3.2, 2.4)  # inches
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#332288")  # of associative memories
MARKERS = "osD^vP*Xhp<>"  # of networks


def write_architecture_figure(rows: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write architectures_gain.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    words = {
        "title": "SHARC's gain by network",
        "alt": "SHARC's gain against the share of zeros and channels. "
        + " ".join(architecture_findings(rows)),
        "caption": (
            "ACC in Class-IL with SHARC minus that of plain replay at equal floats, with its 95 % Student-t "
            "interval over seeds. Markers: networks; colours: associative memories."
        ),
    }
    return write_figure(partial(architecture_figure, rows), Path(folder) / "architectures_gain", words)


def architecture_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a row per theta, against the share of zeros and the channel count."""
    made = shown(rows)
    settings = settings_of(made)
    thetas = list(dict.fromkeys(setting.theta for setting in settings))
    memories = list(dict.fromkeys(setting.memory for setting in settings))
    figure, panels = panel_grid(len(thetas), 2, PANEL)
    for (left, right), theta in zip(panels, thetas, strict=True):
        for panel, measure, factor in ((left, "zeros", 100), (right, "channels", 1)):
            panel.axhline(0, color=GREY, linewidth=0.8)
            panel.set_title(f"theta {theta:g}")
            for memory in memories:
                _draw(
                    panel, made, Setting(theta, memory), measure, factor, COLOURS[memories.index(memory) % 6]
                )
        left.set_ylabel("SHARC minus plain, points")
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter("{x:g}")
    panels[-1][0].set_xlabel("zeros, %")
    panels[-1][1].set_xlabel("channels")
    figure.legend(handles=_entries(made, memories), loc="outside right center")
    return figure


def _draw(panel: Axes, made: list[Network], setting: Setting, measure: str, factor: int, colour: str) -> None:
    for number, network in enumerate(made):
        if setting not in network.gains:
            continue
        test = network.gain(setting)
        ends = [test.difference - test.low, test.high - test.difference]
        panel.errorbar(
            factor * network.maps[measure],
            test.difference,
            yerr=None if test.low != test.low else [[ends[0]], [ends[1]]],
            fmt=MARKERS[number % len(MARKERS)],
            color=colour,
            markersize=4,
            elinewidth=0.8,
        )


def _entries(made: list[Network], memories: list[str]) -> list[Line2D]:
    entries = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], label=memory.replace("$", r"\$"))
        for i, memory in enumerate(memories)
    ]
    return entries + [
        Line2D(
            [],
            [],
            color=GREY,
            marker=MARKERS[i % len(MARKERS)],
            linestyle="",
            label=network.backbone.replace("$", r"\$"),
        )
        for i, network in enumerate(made)
    ]
