"""The figure of the study `heads`: ACC of every head and correction, plain and with SHARC."""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharc_core.figures.style import GREY, method_look, open_and_filled, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.results.display_names import method_name
from sharc_core.results.statistics import confidence_interval
from sharc_core.studies.heads.comparison import Comparison, shown
from sharc_core.studies.heads.table import heads_findings

PANEL = (3.2, 2.4)  # inches


def write_heads_figure(rows: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write heads_acc.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    words = {
        "title": "Which head, and does correcting its bias help?",
        "alt": "ACC by head and correction. " + " ".join(heads_findings(rows)),
        "caption": (
            "ACC in Class-IL with its 95 % Student-t interval over seeds, by head and correction of its "
            "bias. The line is plain replay with the uncorrected linear head."
        ),
    }
    return write_figure(partial(heads_figure, rows), Path(folder) / "heads_acc", words)


def heads_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a row per backbone and a panel per method."""
    made = shown(rows)
    methods = list(dict.fromkeys(case.method for comparison in made for case in comparison.accs))
    figure, panels = panel_grid(len(made), len(methods), PANEL)
    for row, comparison in zip(panels, made, strict=True):
        for panel, method in zip(row, methods, strict=True):
            title = method_name(method) + (f", {comparison.backbone}" if len(made) > 1 else "")
            panel.set_title(title.replace("$", r"\$"))
            _draw(panel, comparison, method, methods)
        for panel in row[1:]:
            panel.set_yticklabels([])
    for panel in panels[-1]:
        panel.set_xlabel("ACC, %")
    figure.legend(handles=open_and_filled(), loc="outside right center")
    return figure


def _draw(panel: Axes, made: Comparison, method: str, methods: list[str]) -> None:
    cases = [case for case in made.accs if case.method == method]
    names = list(dict.fromkeys(case.name for case in cases))
    colour, marker = method_look(method, methods)
    for case in cases:
        accs = made.accs[case]
        mean, ends = accs.mean(), confidence_interval(accs)
        is_sharc = case.variant == "sharc"
        panel.errorbar(
            mean,
            names.index(case.name) + (0.15 if is_sharc else -0.15),
            xerr=None if ends[0] != ends[0] else [[mean - ends[0]], [ends[1] - mean]],
            fmt=marker,
            color=colour,
            markerfacecolor=colour if is_sharc else "white",
            markersize=4.5,
            elinewidth=0.8,
        )
        if case == case.reference("linear") and not is_sharc:
            panel.axvline(mean, color=GREY, linewidth=0.8)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
