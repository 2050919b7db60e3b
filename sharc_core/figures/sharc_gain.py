"""ACC from plain to SHARC, pair by pair, with 95 % intervals."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharc_core.common.formats import natural_key
from sharc_core.figures.style import FRONT, GREY, look, open_and_filled, panel_title, panels
from sharc_core.results.comparisons import Pair, paired
from sharc_core.results.display_names import scenario_name
from sharc_core.results.summary import Entry, row_key, row_name

ROW = 0.24  # inches


def gain_pairs(entries: Sequence[Entry]) -> list[Pair]:
    """Return the pairs of a scenario by data set, backbone and row of the tables."""
    return sorted(
        paired(entries),
        key=lambda p: (natural_key(p.sharc.dataset), natural_key(p.sharc.backbone), row_key(p.sharc)),
    )


def gain_row_name(pair: Pair, entries: Sequence[Entry]) -> str:
    """Return the name of a pair's row, which holds only what differs between the pairs of all entries."""
    return row_name(pair.sharc, [entry for p in gain_pairs(entries) for entry in (p.plain, p.sharc)])


def gain_figure(entries: Sequence[Entry]) -> Figure:
    """Draw two panels per data set and backbone: ACC of each pair, and SHARC minus plain.

    Left: plain (open) and SHARC (filled) with the Student-t intervals of their means. Right: the paired
    difference with its interval.
    """
    pairs = gain_pairs(entries)
    places = [place for place in panels(entries) if any(_place(p.sharc) == place for p in pairs)]
    counts = [sum(_place(p.sharc) == place for p in pairs) for place in places] or [1]
    width = min(len(counts), 2)  # places side by side
    heights = [max(counts[i : i + width]) for i in range(0, len(counts), width)]
    size = (6.4 * width + 1.0, sum(ROW * n + 0.8 for n in heights) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    ratios = (1.6, 1) * width
    grid = figure.subplots(len(heights), 2 * width, squeeze=False, height_ratios=heights, width_ratios=ratios)
    panels_of = grid.reshape(-1, 2)
    for left, right in panels_of[len(places) :]:
        left.set_visible(False)
        right.set_visible(False)
    for place, (left, right) in zip(places, panels_of, strict=False):
        of_place = [pair for pair in pairs if _place(pair.sharc) == place]
        for index, pair in enumerate(of_place):
            _draw_pair(left, right, -index, pair, entries)
        left.set_yticks([-i for i in range(len(of_place))])
        left.set_yticklabels([gain_row_name(p, entries).replace("$", r"\$") for p in of_place])
        left.set_ylim(-len(of_place) + 0.4, 0.6)
        right.set_yticks(left.get_yticks(), [])
        right.set_ylim(*left.get_ylim())
        left.set_title(panel_title(entries, *place))
        left.set_xlabel("ACC, %")
        left.set_xlim(*_range(of_place))
        right.axvline(0, color=GREY, linewidth=0.8)
        right.set_title("SHARC minus plain")
        right.set_xlabel("points")
    figure.legend(handles=open_and_filled(), loc="outside right upper")
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: from plain to SHARC, 95 % intervals")
    return figure


def _draw_pair(left: Axes, right: Axes, y: float, pair: Pair, entries: Sequence[Entry]) -> None:
    colour, marker = look(pair.sharc.method, entries)
    left.plot([pair.plain.acc, pair.sharc.acc], [y, y], color=FRONT, linewidth=2.5, zorder=1)
    for entry, shift, face in ((pair.plain, 0.14, "white"), (pair.sharc, -0.14, colour)):
        low, high = entry.acc_interval
        if low == low:
            left.plot([low, high], [y + shift] * 2, color=colour, linewidth=0.8, zorder=1.5)
        left.plot(entry.acc, y, marker=marker, color=colour, markerfacecolor=face, linestyle="", markersize=6)
    test = pair.test
    if test.low == test.low:
        right.plot([test.low, test.high], [y, y], color=colour, linewidth=1)
    right.plot(test.difference, y, marker=marker, color=colour, markersize=5, linestyle="")


def _range(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return a range of ACC that shows the points and intervals, within 0 and 100 %."""
    entries = [entry for pair in pairs for entry in (pair.plain, pair.sharc)]
    values = [v for e in entries for v in (e.acc, *e.acc_interval) if v == v]
    margin = 0.04 * (np.ptp(values) or 10.0)
    low, high = float(min(values) - margin), float(max(values) + margin)
    return max(low, -1.0), min(high, 101.0)


def _place(entry: Entry) -> tuple[str, str]:
    return entry.dataset, entry.backbone
