"""The figure of the study `architectures`: SHARC's gain by network, with zeros and channels as labels."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.figures.style import GREY, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.studies.architectures.comparison import Network, Setting, on_each, settings_of, shown
from sharc_core.studies.architectures.findings import architecture_findings

WIDTH, ROW = 2.6, 0.42  # inches: of a panel, and of a network in it
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#332288")  # of associative memories
MARKERS = "osD^vP"
SPREAD = 0.5  # of the memories of a network, in rows


def write_architecture_figure(
    rows: pd.DataFrame, folder: Path | str, pairs: Sequence[Sequence[str]] = ()
) -> list[Path]:
    """Write architectures_gain.{svg,png,pdf,json} and return the paths.

    rows: of the jobs. pairs: see ArchitecturesSettings.contrasts.
    """
    words = {
        "title": "SHARC's gain by network",
        "alt": "SHARC's gain by network. " + " ".join(architecture_findings(rows, pairs)),
        "caption": (
            "ACC in Class-IL with SHARC minus that of plain replay at equal floats, with its 95 % Student-t "
            "interval over seeds, not corrected. Networks by their share of zeros, then by their channels. "
            "Crosses: the mean gain on each data set."
        ),
    }
    return write_figure(partial(architecture_figure, rows), Path(folder) / "architectures_gain", words)


def architecture_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a panel per theta and a row per network, the one with the fewest zeros on top."""
    made = sorted(shown(rows), key=lambda network: (network.maps["zeros"], network.maps["channels"]))
    settings = settings_of(made)
    thetas = list(dict.fromkeys(setting.theta for setting in settings))
    memories = list(dict.fromkeys(setting.memory for setting in settings))
    figure, panels = panel_grid(1, len(thetas), (WIDTH, ROW * len(made) + 0.5))
    singles = [network for there in on_each(rows).values() for network in there]
    for number, (panel, theta) in enumerate(zip(panels[0], thetas, strict=True)):
        panel.axvline(0, color=GREY, linewidth=0.8)
        panel.set_title(f"theta {theta:g}")
        panel.set_xlabel("SHARC minus plain, points")
        for memory in range(len(memories)):
            _draw(panel, made, singles, Setting(theta, memories[memory]), memory, len(memories))
        panel.set_yticks(range(len(made)), [_label(network) for network in made] if number == 0 else [])
        panel.set_ylim(len(made) - 0.5, -0.5)
    figure.legend(handles=_entries(memories, bool(singles)), loc="outside lower center", ncols=4)
    return figure


def _draw(
    panel: Axes, made: list[Network], singles: list[Network], setting: Setting, memory: int, memories: int
) -> None:
    """Draw the gains with one memory, and crosses for the same networks on single data sets."""
    offset = SPREAD * ((memory + 0.5) / memories - 0.5)
    colour = COLOURS[memory % len(COLOURS)]
    for row, network in enumerate(made):
        for single in singles:
            if single.backbone == network.backbone and setting in single.gains:
                mean = single.gains[setting].mean()
                panel.plot([mean], [row + offset], color=colour, marker="x", markersize=3, alpha=0.6)
        if setting not in network.gains:
            continue
        test = network.gain(setting)
        ends = [[test.difference - test.low], [test.high - test.difference]]
        panel.errorbar(
            [test.difference],
            [row + offset],
            xerr=None if test.low != test.low else ends,
            fmt=MARKERS[memory % len(MARKERS)],
            color=colour,
            markersize=4,
            elinewidth=0.8,
        )


def _label(network: Network) -> str:
    zeros, channels = 100 * network.maps["zeros"], network.maps["channels"]
    return f"{network.backbone}\n{zeros:.1f} % zeros, K = {channels:.0f}".replace("$", r"\$")


def _entries(memories: list[str], has_singles: bool) -> list[Line2D]:
    entries = [
        Line2D(
            [],
            [],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            label=memory.replace("$", r"\$"),
        )
        for i, memory in enumerate(memories)
    ]
    if has_singles:
        label = "on each data set"
        entries.append(Line2D([], [], color=GREY, marker="x", linestyle="", markersize=3, label=label))
    return entries
