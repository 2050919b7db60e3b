"""Learning curves: mean accuracy on the tasks seen so far, task by task (the paper's figures 3 and 4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharc_core.figures.style import PLAIN, legend, look, panel_grid, panel_title, panels
from sharc_core.grid.axes import AXES
from sharc_core.learning.metrics import learning_curve
from sharc_core.results.display_names import scenario_name
from sharc_core.results.runs import axes_of, matrix_array
from sharc_core.results.summary import Entry, row_key


def curves_of(cells: list[dict]) -> dict[tuple, np.ndarray]:
    """Return learning curves (R, T) in percent, by the axes of an Entry."""
    curves = {}
    for document in cells:
        for scenario in document["matrix"]:
            axes = axes_of(document["cell"], scenario)
            curves[tuple(axes.values())] = learning_curve(matrix_array(document, scenario))
    return curves


def curves_figure(entries: Sequence[Entry], curves: dict[tuple, np.ndarray]) -> Figure:
    """Draw a row per data set and backbone, a column per buffer and budget; baselines are in every panel."""
    budgets: list[Any] = sorted({(str(e.budget), e.buffer) for e in entries if e.buffer is not None})
    budgets = budgets or [("", None)]
    shown = [(*place, *budget) for place in panels(entries) for budget in budgets]
    # with a single budget the data sets are side by side
    width = len(budgets) if len(budgets) > 1 else min(len(shown), 3)
    figure, axes = panel_grid(-(-len(shown) // width), width)
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    for (dataset, backbone, unit, buffer), panel in zip(shown, axes.flat, strict=False):
        of_panel = [e for e in entries if (e.dataset, e.backbone) == (dataset, backbone)]
        drawn = [e for e in of_panel if e.buffer is None or (str(e.budget), e.buffer) == (unit, buffer)]
        for entry in sorted(drawn, key=row_key):
            _draw_curve(panel, entry, curves[tuple(getattr(entry, name) for name in AXES)], entries)
        sized = next((e for e in drawn if e.buffer is not None), None)
        budget = "" if sized is None else f", buffer {sized.buffer_text}"
        budget += f" ({unit})" if len({u for u, _ in budgets}) > 1 else ""
        panel.set_title(panel_title(entries, dataset, backbone) + budget)
        panel.set_xlabel("tasks learned")
        panel.xaxis.get_major_locator().set_params(integer=True)
    for line in axes:
        line[0].set_ylabel("accuracy on tasks seen, %")
    legend(figure, entries, lines=True)
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: learning curves, mean ± standard deviation")
    return figure


def _draw_curve(panel: Axes, entry: Entry, curve: np.ndarray, entries: Sequence[Entry]) -> None:
    colour, marker = look(entry.method, entries)
    mean, task = curve.mean(0), np.arange(1, curve.shape[1] + 1)
    evaluated = ~np.isnan(mean)
    if evaluated.sum() == 1:  # JOINT, or a stream of one task
        panel.plot(task[evaluated], mean[evaluated], marker=marker, color=colour, markersize=7, clip_on=False)
        return
    panel.plot(task, mean, color=colour, linestyle="-" if entry.is_sharc else PLAIN)
    if len(curve) > 1:
        std = curve.std(0, ddof=1)
        panel.fill_between(task, mean - std, mean + std, color=colour, alpha=0.08, linewidth=0)
