"""Accuracy against the floating-point operations of training."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from sharc_core.figures.style import acc_panels, acc_point, legend
from sharc_core.results.display_names import scenario_name
from sharc_core.results.summary import Entry


def flops_of(entry: Entry) -> float:
    """Return the mean training FLOPs of an entry."""
    return entry.costs["train_flops"]


def compute_figure(entries: Sequence[Entry]) -> Figure:
    """Draw ACC against training FLOPs (logarithmic), a panel per data set and backbone.

    Runs without a matrix product in training (k-NN) are omitted.
    """
    figure, drawn = acc_panels(entries)
    for panel, chosen in drawn:
        for entry in chosen:
            if flops_of(entry) > 0:
                acc_point(panel, flops_of(entry), entry, entries)
        panel.set_xscale("log")
        panel.set_xlabel("training FLOPs")
    legend(figure, entries, lines=False, points_only=True)
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: accuracy against training FLOPs")
    return figure
