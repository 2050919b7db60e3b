"""The figure of the study `capacity`: error against load or number of patterns, and capacity against size."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharc_core.figures.style import DOTTED, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.studies.capacity.settings import (
    CLASSICAL,
    HALF,
    HEBBIAN,
    MODERN,
    PATTERN,
    PREDICTIVE,
    PROJECTION,
    CapacitySettings,
)
from sharc_core.studies.capacity.table import LEVELS, TITLE, sentences, summary
from sharc_core.studies.capacity.theory import critical_load, log_patterns, retrieved

PANEL = (3.3, 2.6)  # inches
COLUMNS = 3
THEORY: dict[str, Any] = {"color": "#000000", "linewidth": 1.2, "linestyle": "--"}


def write_capacity_figure(
    rows: pd.DataFrame, settings: CapacitySettings, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write capacity_curves.{svg,png,pdf,json} and return the paths. config: the grid's hash."""
    about = {
        "kind": "capacity",
        "title": TITLE,
        "alt": "Error against the number of random patterns. " + " ".join(sentences(rows, settings)),
        "caption": "Means over seeds with the sample standard deviation. Dashed: theory. Dotted: the level "
        "whose crossing is the capacity. Classical network (top left and middle): all units free from the "
        "stored pattern on, and half of them held. Modern network: patterns at which half of the cues fail, "
        "with 95 % intervals.",
        "origin": lineage(rows, config),
    }
    return write_figure(partial(_figure, rows, settings), Path(folder) / "capacity_curves", about)


def _figure(rows: pd.DataFrame, settings: CapacitySettings) -> Figure:
    memories = list(dict.fromkeys(rows[rows.part == PREDICTIVE].memory))
    count = COLUMNS + len(memories)
    figure, grid = panel_grid(-(-count // COLUMNS), COLUMNS, PANEL)
    panels = grid.flatten()
    for panel in panels[count:]:
        panel.set_visible(False)
    classical = rows[rows.part == CLASSICAL].assign(load=lambda frame: frame.patterns / frame["size"])
    hebbian = classical[classical["rule"] == HEBBIAN]
    _classical(panels[0], hebbian[hebbian.cue == PATTERN], 0.0, "Hopfield, free units")
    _classical(panels[1], hebbian[hebbian.cue == HALF], 0.5, "Hopfield, half of the units held")
    projection = classical[classical["rule"] == PROJECTION]
    if len(projection):
        label = f"projection rule, N = {projection['size'].iloc[0]}"
        _curve(panels[1], projection, "load", label, "#cc79a7", "s")
        panels[1].legend(loc="upper left")
    _modern(panels[2], summary(rows[rows.part == MODERN], settings), settings)
    for panel, memory in zip(panels[COLUMNS:], memories, strict=False):
        _predictive(panel, rows[(rows.part == PREDICTIVE) & (rows.memory == memory)], memory)
    return figure


def _curve(panel: Axes, rows: pd.DataFrame, along: str, label: str, colour, marker: str) -> None:
    groups = rows[rows.error.notna()].groupby(along).error
    mean, std = groups.mean(), groups.std(ddof=1).fillna(0)
    panel.errorbar(
        mean.index, mean, yerr=std, color=colour, marker=marker, ms=3, lw=1, elinewidth=0.8, label=label
    )


def _colours(count: int) -> list:
    return [colormaps["viridis"](0.85 * (1 - (i + 1) / count)) for i in range(count)]


def _classical(panel: Axes, rows: pd.DataFrame, clamped: float, title: str) -> None:
    sizes = sorted(rows["size"].unique())
    for size, colour in zip(sizes, _colours(len(sizes)), strict=True):
        _curve(panel, rows[rows["size"] == size], "load", f"N = {size}", colour, "o")
    loads, errors = retrieved(clamped)
    shown = loads <= rows.load.max() if len(rows) else loads <= 0.3
    panel.plot(loads[shown], errors[shown], label="theory", **THEORY)
    if not clamped:
        panel.axvline(critical_load(), color="#000000", linewidth=0.6, label=f"{critical_load():.3f} N")
    panel.axhline(LEVELS[CLASSICAL], color="#444444", linestyle=DOTTED, linewidth=0.8)
    panel.set_title(title)
    panel.set_xlabel("patterns / units")
    panel.set_ylabel("wrong units, share")
    panel.legend()


def _modern(panel: Axes, lines: pd.DataFrame, settings: CapacitySettings) -> None:
    panel.set_title("Modern Hopfield, top-1")
    panel.set_xlabel("known entries")
    panel.set_ylabel("patterns at capacity")
    panel.set_yscale("log")
    if not len(lines):
        return
    means, spread = np.exp(lines.capacity), [np.exp(lines[name]) for name in ("low", "high")]
    bars = np.abs(np.stack([means - spread[0], spread[1] - means]))
    panel.errorbar(lines["size"], means, yerr=np.nan_to_num(bars), color="#0072b2", marker="o", ms=4, ls="")
    sizes = np.arange(lines["size"].min(), lines["size"].max() + 1)
    level = LEVELS[MODERN]
    predicted = [math.exp(log_patterns(int(size), settings.noise, level)) for size in sizes]
    panel.plot(sizes, predicted, label="theory", **THEORY)
    panel.legend()


def _predictive(panel: Axes, rows: pd.DataFrame, memory: str) -> None:
    units = sorted(rows.hidden.unique())
    for hidden, colour in zip(units, _colours(len(units)), strict=True):
        _curve(panel, rows[rows.hidden == hidden], "patterns", f"{hidden} hidden units", colour, "o")
    panel.axhline(LEVELS[PREDICTIVE], color="#444444", linestyle=DOTTED, linewidth=0.8)
    panel.set_xscale("log", base=2)
    panel.set_title(memory.replace("$", r"\$"))
    panel.set_xlabel("patterns")
    panel.set_ylabel("relative error")
    panel.legend()
