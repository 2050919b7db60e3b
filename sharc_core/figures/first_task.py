"""Accuracy on the first task after each task, under each batch norm of a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.backbones.names import BATCH_NORMS, has_batch_norms, network_and_batch_norm
from sharc_core.common.formats import natural_key
from sharc_core.figures.style import look, panel_grid
from sharc_core.grid.axes import AXES
from sharc_core.results.display_names import method_name, scenario_name
from sharc_core.results.runs import axes_of, matrix_array
from sharc_core.results.summary import Entry, model_label, row_key, varying_settings

COLUMNS = 4  # panels side by side
DASHES: dict[str, Any] = {"frozen": "-", "drifting": (0, (3, 1.5)), "adapted": (0, (1, 1.2))}
TITLE = "First task by batch norm"
CAPTION = (
    "Accuracy on the first task's test images after each task, mean and standard deviation (band) over the "
    "seeds. Solid: batch norm frozen; dashed: drifting; dotted: adapted. The figure shows SGD, and the other "
    "methods at the smallest buffer. Thin black lines: JOINT, which trains once on all tasks."
)


@dataclass(frozen=True)
class Panel:
    """A model on a data set and network. entries, joint: by batch norm, in the order of BATCH_NORMS."""

    place: str
    model: str
    entries: dict[str, Entry]
    joint: dict[str, Entry]


def first_task_of(cells: list[dict]) -> dict[tuple, np.ndarray]:
    """Return the accuracy on the first task after each task, by the axes of an Entry.

    The arrays are (R, T) in percent, NaN where not evaluated.
    """
    return {
        tuple(axes_of(document["cell"], scenario).values()): matrix_array(document, scenario)[:, :, 0]
        for document in cells
        for scenario in document["matrix"]
    }


def first_task_panels(entries: Sequence[Entry]) -> list[Panel]:
    """Return a panel per data set, network with several batch norms, and model.

    Models are SGD and the plain methods at the smallest buffer of the data set; the SHARC methods where there
    are no plain ones. Models run under a single batch norm are omitted, unless all are.
    """
    names = {entry.backbone for entry in entries}
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        network, _ = network_and_batch_norm(entry.backbone)
        if has_batch_norms(name for name in names if network_and_batch_norm(name)[0] == network):
            groups.setdefault((entry.dataset, network), []).append(entry)
    several = len({network for _, network in groups}) > 1
    panels = []
    for dataset, network in sorted(groups, key=lambda pair: tuple(map(natural_key, pair))):
        group = groups[dataset, network]
        place = f"{dataset}, {network}" if several else dataset
        joint = _by_batch_norm([entry for entry in group if entry.is_joint])
        models = _models([entry for entry in group if not entry.is_joint])
        shown = [entry for runs in models for entry in runs]
        budgets, varying = {e.budget for e in shown if e.budget is not None}, varying_settings(shown)
        for runs in models:
            model = model_label(runs[0], varying)
            if runs[0].buffer is not None:
                model += f", buffer {runs[0].buffer_text}" + (
                    f" ({runs[0].budget})" if len(budgets) > 1 else ""
                )
            panels.append(Panel(place, model, _by_batch_norm(runs), joint))
        if not models:
            panels.append(Panel(place, "JOINT", {}, joint))
    return panels


def _models(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return, for each model that has a panel, its entries under each batch norm."""
    chosen = [entry for entry in entries if not entry.is_sharc] or entries
    rows: dict[tuple, list[Entry]] = {}
    for entry in sorted(chosen, key=row_key):
        rows.setdefault((entry.budget, *entry.row), []).append(entry)
    several = [runs for runs in rows.values() if has_batch_norms(entry.backbone for entry in runs)]
    models = several or list(rows.values())
    smallest = min((runs[0].buffer for runs in models if runs[0].buffer is not None), default=None)
    return [runs for runs in models if runs[0].buffer in (None, smallest)]


def _by_batch_norm(entries: Sequence[Entry]) -> dict[str, Entry]:
    by_name = {network_and_batch_norm(entry.backbone)[1]: entry for entry in entries}
    return {name: by_name[name] for name in BATCH_NORMS if name in by_name}


def first_task_figure(entries: Sequence[Entry], curves: dict[tuple, np.ndarray]) -> Figure:
    """Draw a panel per model with a line per batch norm. curves: first_task_of the entries' cells."""
    shown = first_task_panels(entries)
    width = min(len(shown), COLUMNS) or 1
    figure, axes = panel_grid(-(-len(shown) // width) or 1, width, panel=(2.6, 2.2))
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    for panel, axis in zip(shown, axes.flat, strict=False):
        for batch_norm, entry in panel.joint.items():
            level = float(_mean(entry, curves)[-1])
            colour = look(entry.method, entries)[0]
            axis.axhline(level, color=colour, linestyle=DASHES[batch_norm], linewidth=0.7)
        for batch_norm, entry in panel.entries.items():
            _draw(axis, _of(entry, curves), look(entry.method, entries)[0], batch_norm)
        axis.set_title(f"{panel.place}\n{panel.model}".replace("$", r"\$"))
        axis.set_xlabel("tasks learned")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylim(-3, 103)
    for line in axes:
        line[0].set_ylabel("accuracy on task 1, %")
    drawn = {name for panel in shown for name in (*panel.entries, *panel.joint)}
    handles = [
        Line2D([], [], color="#444444", linestyle=DASHES[name], label=name)
        for name in BATCH_NORMS
        if name in drawn
    ]
    for entry in [entry for panel in shown for entry in panel.joint.values()][:1]:
        colour = look(entry.method, entries)[0]
        handles.append(Line2D([], [], color=colour, linewidth=0.7, label=method_name(entry.method)))
    if handles:
        figure.legend(handles=handles, loc="outside right center")
    figure.suptitle(f"{scenario_name(entries[0].scenario)}: accuracy on the first task, by batch norm")
    return figure


def _draw(axis: Axes, curve: np.ndarray, colour: str, batch_norm: str) -> None:
    task, mean = np.arange(1, curve.shape[1] + 1), curve.mean(0)
    marker = "." if len(task) == 1 else ""  # a line of one point is invisible
    axis.plot(task, mean, color=colour, linestyle=DASHES[batch_norm], marker=marker)
    if len(curve) > 1:
        std = curve.std(0, ddof=1)
        axis.fill_between(task, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)


def first_task_words(entries: Sequence[Entry], curves: dict[tuple, np.ndarray]) -> dict[str, str]:
    """Return {"title", "alt", "caption"} of first_task_figure; alt gives both ends of every line."""
    scenario = scenario_name(entries[0].scenario)
    sentences, places = [], []
    for panel in first_task_panels(entries):
        if panel.joint and panel.place not in places:
            levels = [f"{name} {float(_mean(e, curves)[-1]):.1f} %" for name, e in panel.joint.items()]
            sentences.append(f"{panel.place}, JOINT: {', '.join(levels)}.")
        places.append(panel.place)
        ends = [(name, _mean(entry, curves)[[0, -1]]) for name, entry in panel.entries.items()]
        if ends:
            parts = [f"{name} from {first:.1f} to {last:.1f} %" for name, (first, last) in ends]
            sentences.append(f"{panel.place}, {panel.model}: {', '.join(parts)}.")
    start = f"Line plots for {scenario}: accuracy on the first task, after that task and at the end"
    return {
        "title": f"{TITLE}, {scenario}",
        "alt": " ".join([f"{start}.", *sentences]),
        "caption": CAPTION,
    }


def _of(entry: Entry, curves: dict[tuple, np.ndarray]) -> np.ndarray:
    return curves[tuple(getattr(entry, name) for name in AXES)]


def _mean(entry: Entry, curves: dict[tuple, np.ndarray]) -> np.ndarray:
    """Return the mean over the seeds, (T,), percent."""
    return _of(entry, curves).mean(0)
