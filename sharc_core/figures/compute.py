"""Accuracy against the floating-point operations of training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sharc_core.figures.style import legend, look, panel_grid, panel_title, panels
from sharc_core.results.display_names import scenario_name
from sharc_core.results.summary import Entry


def flops_of(entry: Entry) -> float:
    """Return the mean training FLOPs of an entry; NaN where they were not counted."""
    return entry.costs["train_flops"]


def compute_figure(entries: Sequence[Entry]) -> Figure:
    """Draw ACC against training FLOPs (logarithmic), a panel per data set and backbone.

    Runs without counted FLOPs, or with none, are omitted.
    """
    shown = panels(entries)
    width = min(len(shown), 3)
    figure, axes = panel_grid(-(-len(shown) // width), width, panel=(4.0, 3.2))
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    for (dataset, backbone), panel in zip(shown, axes.flat, strict=False):
        chosen = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone) and flops_of(e) > 0]
        for entry in chosen:
            colour, marker = look(entry.method, entries)
            deviation = entry.std["acc"]
            panel.errorbar(
                flops_of(entry),
                entry.acc,
                yerr=None if np.isnan(deviation) else deviation,
                fmt=marker,
                color=colour,
                markerfacecolor=colour if entry.is_sharc else "white",
                markersize=6,
                elinewidth=0.8,
            )
        panel.set_xscale("log")
        panel.set_title(panel_title(entries, dataset, backbone))
        panel.set_xlabel("training FLOPs")
        panel.set_ylabel("ACC, %")
    legend(figure, entries, lines=False, points_only=True)
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: accuracy against training FLOPs")
    return figure
