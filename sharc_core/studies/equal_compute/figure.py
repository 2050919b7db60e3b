"""The figure of the study `equal_compute`: ACC minus that of the plain reference, by kind of compute."""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from sharc_core.figures.style import GREY, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.results.display_names import method_name, scenario_name
from sharc_core.studies.equal_compute.comparison import Comparison, entrant_name
from sharc_core.studies.equal_compute.settings import BUDGETS
from sharc_core.studies.equal_compute.table import compute_findings, grouped

PANEL = (3.4, 3.4)  # inches
COLOURS = dict(zip(BUDGETS, ("#8c8c8c", "#d55e00", "#0072b2"), strict=True))
MARKERS = dict(zip(BUDGETS, ("o", "s", "^"), strict=True))
LINEAR = 5.0  # points around zero that are drawn to scale


def write_compute_figure(rows: pd.DataFrame, reference: str, folder: Path | str) -> list[Path]:
    """Write equal_compute_differences.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    words = {
        "title": "Methods at equal compute",
        "alt": "ACC minus that of the reference. " + " ".join(compute_findings(rows, reference)),
        "caption": (
            f"ACC minus that of plain {method_name(reference)} with the same compute, in percentage "
            "points, with 95 % Student-t intervals over seeds. The axis is linear up to 5 points and "
            "logarithmic beyond. +: with SHARC."
        ),
    }
    return write_figure(
        partial(compute_figure, rows, reference), Path(folder) / "equal_compute_differences", words
    )


def compute_figure(rows: pd.DataFrame, reference: str) -> Figure:
    """Return a figure with a panel per scenario and backbone."""
    groups = grouped(rows)
    figure, panels = panel_grid(1, len(groups), PANEL)
    several = len({made.backbone for group in groups for made in group.values()}) > 1
    for panel, group in zip(panels[0], groups, strict=True):
        first = next(iter(group.values()))
        title = scenario_name(first.scenario) + (f", {first.backbone}" if several else "")
        panel.set_title(title.replace("$", r"\$"))
        panel.set_xlabel(f"ACC minus plain {method_name(reference)}'s, points")
        _draw(panel, group, reference)
    handles = [
        Line2D([], [], color=COLOURS[name], marker=MARKERS[name], linestyle="", label=name)
        for name in BUDGETS
    ]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def _draw(panel: Axes, group: dict[str, Comparison], reference: str) -> None:
    entrants = [e for e in next(iter(group.values())).accs if e != (reference, "plain")]
    panel.axvline(0, color=GREY, linewidth=0.8)
    for position, entrant in enumerate(entrants):
        for number, (compute, made) in enumerate(group.items()):
            test = made.over(entrant, (reference, "plain"))
            if test is None:
                continue
            ends = (
                None
                if test.low != test.low
                else [[test.difference - test.low], [test.high - test.difference]]
            )
            panel.errorbar(
                test.difference,
                position + 0.22 * (number - 1),
                xerr=ends,
                fmt=MARKERS[compute],
                color=COLOURS[compute],
                markersize=3.5,
                elinewidth=0.8,
            )
    panel.set_xscale("symlog", linthresh=LINEAR)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_yticks(range(len(entrants)), [entrant_name(e).replace("$", r"\$") for e in entrants])
    panel.set_ylim(len(entrants) - 0.4, -0.6)
