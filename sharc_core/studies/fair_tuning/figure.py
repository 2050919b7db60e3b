"""The figure of the study `fair_tuning`: ACC with published and with tuned settings, and the ranks."""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharc_core.figures.style import GREY, PLAIN, method_look, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.results.display_names import scenario_name
from sharc_core.studies.fair_tuning.rankings import ALL, Rankings, entrant_name, rankings
from sharc_core.studies.fair_tuning.settings import PUBLISHED, TUNED
from sharc_core.studies.fair_tuning.table import fair_findings, tau_text

PANEL = (3.4, 3.4)  # inches


def write_fair_figure(rows: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write fair_tuning_rankings.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    words = {
        "title": "Does the ranking survive tuning?",
        "alt": "Ranks with published and with tuned settings. " + " ".join(fair_findings(rows)),
        "caption": (
            "Ranks by ACC on the test images, 1 for the highest, with published settings (left) and with the "
            "best of equally many trials on held-out training images (right). + and solid lines: SHARC; "
            "dashed lines: plain. In brackets: ACC in percent."
        ),
    }
    return write_figure(partial(fair_figure, rows), Path(folder) / "fair_tuning_rankings", words)


def fair_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a row of panels per scenario and backbone, one per data set."""
    groups: dict[tuple[str, str], list[Rankings]] = {}
    for ranking in rankings(rows):
        if ranking.dataset != ALL:
            groups.setdefault((ranking.scenario, ranking.backbone), []).append(ranking)
    several = len({backbone for _, backbone in groups}) > 1
    figure, panels = panel_grid(len(groups), max(map(len, groups.values())), PANEL)
    for row, made in zip(panels, groups.values(), strict=True):
        for panel in row[len(made) :]:
            panel.set_visible(False)
        for panel, ranking in zip(row, made, strict=False):
            title = f"{scenario_name(ranking.scenario)}, {ranking.dataset}"
            title += f", {ranking.backbone}" if several else ""
            panel.set_title(f"{title}\n{tau_text(ranking)}".replace("$", r"\$"))
            _draw(panel, ranking)
    return figure


def _draw(panel: Axes, ranking: Rankings) -> None:
    methods = list(dict.fromkeys(method for method, _ in ranking.entrants))
    places = {}
    for source, acc in ((PUBLISHED, ranking.published), (TUNED, ranking.tuned)):
        order = acc.mean(1).argsort(kind="stable")[::-1]
        places[source] = {int(number): place for place, number in enumerate(order, start=1)}
    for number, entrant in enumerate(ranking.entrants):
        colour, marker = method_look(entrant[0], methods)
        ends = [places[source][number] for source in (PUBLISHED, TUNED)]
        is_sharc = entrant[1] == "sharc"
        panel.plot(
            [0, 1],
            ends,
            color=colour,
            marker=marker,
            markersize=4,
            markerfacecolor=colour if is_sharc else "white",
            linestyle="-" if is_sharc else PLAIN,
            linewidth=1.2,
        )
        name = entrant_name(entrant).replace("$", r"\$")
        sides = ((0, -0.06, "right", ranking.published), (1, 1.06, "left", ranking.tuned))
        for side, x, align, acc in sides:
            text = f"{name} ({acc[number].mean():.1f})"
            panel.text(x, ends[side], text, ha=align, va="center", fontsize=7, color=GREY)
    panel.set_xlim(-0.9, 1.9)
    panel.set_ylim(len(ranking.entrants) + 0.6, 0.4)
    panel.set_xticks([0, 1], [PUBLISHED, TUNED])
    panel.set_yticks([])
    panel.spines[["left", "right", "top"]].set_visible(False)
