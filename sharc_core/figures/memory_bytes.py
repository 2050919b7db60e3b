"""Accuracy against the bytes of all that the learner keeps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sharc_core.figures.style import (
    BYTES_LABEL,
    FRONT,
    acc_panels,
    acc_point,
    bytes_axis,
    legend,
    level_dashes,
    look,
)
from sharc_core.methods import traits
from sharc_core.results.display_names import scenario_name
from sharc_core.results.summary import Entry


def bytes_figure(entries: Sequence[Entry]) -> Figure:
    """Draw ACC against total bytes (logarithmic), a panel per data set and backbone.

    Baselines are horizontal lines: SGD keeps only the head, and JOINT's bytes exclude its data.
    """
    figure, drawn = acc_panels(entries)
    for panel, chosen in drawn:
        front = np.array(pareto_front(chosen)).reshape(-1, 2)
        panel.step(front[:, 0], front[:, 1], where="post", color=FRONT, linewidth=1, zorder=1)
        for entry in chosen:
            if traits(entry.method).baseline:
                colour, _ = look(entry.method, entries)
                panel.axhline(entry.acc, color=colour, linestyle=level_dashes(entry.method), zorder=1.5)
                continue
            acc_point(panel, entry.total_bytes, entry, entries)
        with_memory = [e for e in chosen if not traits(e.method).baseline]
        bytes_axis(panel, [e.total_bytes for e in with_memory or chosen])
        panel.set_xlabel(BYTES_LABEL)
    legend(figure, entries, lines=False)
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: accuracy against bytes")
    return figure


def pareto_front(entries: Sequence[Entry]) -> list[tuple[float, float]]:
    """Return (bytes, ACC) of the entries that have a higher ACC than every entry of no more bytes, by bytes.

    JOINT is excluded, because its bytes exclude the data that it needs at once.
    """
    front: list[tuple[float, float]] = []
    candidates = [e for e in entries if not e.is_joint]
    for entry in sorted(candidates, key=lambda e: (e.total_bytes, -e.acc)):
        if not front or entry.acc > front[-1][1]:
            front.append((entry.total_bytes, entry.acc))
    return front
