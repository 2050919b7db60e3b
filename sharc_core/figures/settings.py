"""ACC and bytes for every value of one setting of SHARC (the paper's figure 5 a and b)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.figures.style import BYTES_LABEL, GREY, PLAIN, bytes_axis, level_dashes, look, places
from sharc_core.results.display_names import method_key, method_name, scenario_name
from sharc_core.results.summary import Entry, setting_text, unique, varying_settings

LINE = 0.24  # inches from one value to the next


def settings_figure(entries: Sequence[Entry], setting: str) -> Figure:
    """Draw a row per place and method: ACC with its deviation on the left, bytes on the right.

    Vertical lines: the plain method at the same buffer (dashed, in its colour) and methods without a buffer.
    setting: an attribute of Entry, such as associative_memory. Values are in the order of their ACC.
    """
    rows = [
        (place, method, sharc)
        for place in places(entries)
        for method in unique((e.method for e in place.entries), method_key)
        if (sharc := [e for e in place.entries if e.method == method and e.is_sharc])
    ]
    heights = [LINE * len(sharc) + 0.75 for _, _, sharc in rows]
    figure = Figure(figsize=(7.4, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False, height_ratios=heights, width_ratios=[3, 2])
    for (place, method, sharc), (left, right) in zip(rows, axes, strict=True):
        plain = [e for e in place.entries if e.method == method and not e.is_sharc]
        _draw(left, right, sorted(sharc, key=lambda e: e.acc), [*plain, *place.level], setting, entries)
        left.set_title(f"{method_name(method)} with SHARC, {place.title}".replace("$", r"\$"))
    shown = unique((e.method for place, _, _ in rows for e in place.level), method_key)
    handles = [_line(level_dashes(m), look(m, entries)[0], method_name(m)) for m in shown]
    if any(not e.is_sharc and e.buffer is not None for e in entries):
        handles.append(_line(PLAIN, GREY, "the method without SHARC"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: ACC and bytes by {setting.replace('_', ' ')}")
    return figure


def _draw(
    left: Axes,
    right: Axes,
    sharc: Sequence[Entry],
    levels: Sequence[Entry],
    setting: str,
    entries: Sequence[Entry],
) -> None:
    y, further = np.arange(len(sharc)), [name for name in varying_settings(sharc) if name != setting]
    colour, marker = look(sharc[0].method, entries)
    deviations = [e.std["acc"] for e in sharc]
    bars = None if np.isnan(deviations).any() else deviations
    left.errorbar([e.acc for e in sharc], y, xerr=bars, fmt=marker, color=colour, elinewidth=0.8)
    for level in levels:
        dashes, shade = level_dashes(level.method), look(level.method, entries)[0]
        left.axvline(level.acc, color=shade, linestyle=dashes, zorder=1.5)
    right.plot([e.total_bytes for e in sharc], y, marker, color=colour)
    for level in levels:
        if level.buffer is not None:
            right.axvline(level.total_bytes, color=colour, linestyle=PLAIN)
    names = [", ".join(filter(None, (setting_text(e, n) for n in (setting, *further)))) for e in sharc]
    left.set_yticks(y, [name.replace("$", r"\$") for name in names])
    right.set_yticks(y, [""] * len(y))
    for panel in (left, right):
        panel.set_ylim(-0.6, len(y) - 0.4)
    left.set_xlabel("ACC, %")
    bytes_axis(right, [e.total_bytes for e in (*sharc, *levels) if e.buffer is not None])
    right.set_xlabel(BYTES_LABEL)


def _line(dashes: tuple, colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, linestyle=dashes, label=label.replace("$", r"\$"))
