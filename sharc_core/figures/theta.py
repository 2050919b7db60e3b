"""ACC against theta, the share of channels dropped (the paper's figure 5 c and d)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.figures.style import GREY, level_dashes, look, panel_grid, places
from sharc_core.results.display_names import method_key, method_name, scenario_name
from sharc_core.results.summary import Entry, setting_text, unique, varying_settings

STYLES: tuple[Any, ...] = (  # dashes of further settings
    "-",
    (0, (6, 1)),
    (0, (6, 1, 1, 1)),
    (0, (6, 1, 1, 1, 1, 1)),
)


def _theta(entry: Entry) -> float:
    assert entry.theta is not None
    return entry.theta


def theta_figure(entries: Sequence[Entry]) -> Figure:
    """Draw a panel per place: a line per method; methods without SHARC are horizontal lines."""
    shown, width = places(entries), 3
    sharc = [e for e in entries if e.is_sharc]
    further = [name for name in varying_settings(sharc) if name != "theta"]
    groups = unique((_group(e, further) for e in sharc), str)
    columns = min(len(shown), width)
    figure, axes = panel_grid(-(-len(shown) // columns), columns, panel=(3.6, 2.8))
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    for place, panel in zip(shown, axes.flat, strict=False):
        for level in [*place.level, *(e for e in place.entries if not e.is_sharc)]:
            dashes = level_dashes(level.method)
            panel.axhline(level.acc, color=look(level.method, entries)[0], linestyle=dashes, linewidth=1)
        for method in unique((e.method for e in place.entries), method_key):
            colour, marker = look(method, entries)
            for group in groups:
                line = [e for e in place.entries if e.is_sharc and e.method == method]
                line = sorted((e for e in line if _group(e, further) == group), key=_theta)
                theta, mean = [e.theta for e in line], np.array([e.acc for e in line])
                deviation = np.array([e.std["acc"] for e in line])
                style = STYLES[groups.index(group) % len(STYLES)]
                panel.plot(theta, mean, color=colour, marker=marker, markersize=4, linestyle=style)
                panel.fill_between(
                    theta, mean - deviation, mean + deviation, color=colour, alpha=0.12, linewidth=0
                )
        panel.set_title(place.title)
        panel.set_xlabel("theta: share of the channels dropped")
        panel.set_ylabel("ACC, %")
    figure.legend(handles=_handles(entries, groups), loc="outside right center")
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: ACC against theta")
    return figure


def _group(entry: Entry, further: Sequence[str]) -> str:
    """Return the settings that distinguish the lines of one method."""
    return ", ".join(filter(None, (setting_text(entry, name) for name in further)))


def _handles(entries: Sequence[Entry], groups: Sequence[str]) -> list[Line2D]:
    handles = []
    for method in unique((e.method for e in entries), method_key):
        colour, marker = look(method, entries)
        rows = [e for e in entries if e.method == method]
        name = method_name(method).replace("$", r"\$")
        if any(e.is_sharc for e in rows):
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, label=f"{name}+"))
        if any(not e.is_sharc for e in rows):
            dashes = level_dashes(method)
            handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=1, label=name))
    if len(groups) > 1:
        for group, style in zip(groups, STYLES * len(groups), strict=False):
            handles.append(Line2D([], [], color=GREY, linestyle=style, label=group))
    return handles
