"""The figure of the study `saliency_choice`: ACC of every saliency minus that of the paper's."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.common.deferred import pandas as pd
from sharc_core.figures.style import GREY, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.studies.saliency_choice.table import EQUAL, PAPERS, summary

PANEL = (2.5, 2.2)  # inches
MARKERS = {"linear": "o", "mlp": "s"}
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#332288")  # of associative memories


def write_choice_figure(rows: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write saliency_choice_differences.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    words = {
        "title": "Which saliency serves SHARC best?",
        "alt": "Difference of ACC from the paper's saliency, with intervals, per saliency.",
        "caption": (
            "ACC of SHARC with each saliency minus that with the paper's (gradient), in percentage points, "
            "mean over data sets and 95 % Student-t interval over seeds, not corrected for their number. "
            "Circles: linear head; squares: MLP. Colours: associative memories. A memory with which all "
            "saliencies have the same accuracies is left out."
        ),
    }
    return write_figure(lambda: choice_figure(rows), Path(folder) / "saliency_choice_differences", words)


def choice_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with a row per scenario and a column per budget and kind of theta."""
    lines = summary(rows)
    if (lines.dataset == "all").any():
        lines = lines[lines.dataset == "all"]
    scenarios = unique(lines.scenario, scenario_key)
    columns = list(dict.fromkeys(zip(lines.budget, lines.share, strict=True)))
    verdicts = lines[f"over_{PAPERS}_verdict"]
    memories = list(dict.fromkeys(lines.associative_memory[verdicts != EQUAL]))
    names = [name for name in dict.fromkeys(lines.saliency) if name != PAPERS]
    figure, panels = panel_grid(len(scenarios), len(columns), PANEL)
    for row, scenario in zip(panels, scenarios, strict=True):
        for panel, (budget, share) in zip(row, columns, strict=True):
            here = lines[(lines.scenario == scenario) & (lines.budget == budget) & (lines.share == share)]
            panel.set_title(f"{scenario_name(scenario)}, {budget},\n{share}")
            _draw(panel, here, names, memories)
        row[0].set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
        for panel in row[1:]:
            panel.set_yticks(range(len(names)), [])
    for panel in panels[-1]:
        panel.set_xlabel("ACC minus gradient's, points")
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="o", label=memory.replace("$", r"\$"))
        for i, memory in enumerate(memories)
    ]
    handles += [
        Line2D([], [], color=GREY, marker=MARKERS[head], linestyle="", label=f"{head} head")
        for head in dict.fromkeys(lines["head"])
    ]
    figure.legend(handles=handles, loc="outside right center")
    return figure


def _draw(panel: Axes, lines: pd.DataFrame, names: list[str], memories: list[str]) -> None:
    kinds = [(memory, head) for memory in memories for head in dict.fromkeys(lines["head"])]
    panel.axvline(0, color=GREY, linewidth=0.8)
    for number, (memory, head) in enumerate(kinds):
        shift = 0.6 * ((number + 0.5) / len(kinds) - 0.5)
        chosen = lines[(lines.associative_memory == memory) & (lines["head"] == head)]
        for line in chosen.to_dict("records"):
            is_equal = line[f"over_{PAPERS}_verdict"] == EQUAL  # by construction, which is no result
            if is_equal or line["saliency"] == PAPERS or pd.isna(line[f"over_{PAPERS}"]):
                continue
            mean = line[f"over_{PAPERS}"]
            ends = [mean - line[f"over_{PAPERS}_low"], line[f"over_{PAPERS}_high"] - mean]
            panel.errorbar(
                mean,
                names.index(line["saliency"]) + shift,
                xerr=None if any(map(pd.isna, ends)) else [[ends[0]], [ends[1]]],
                fmt=MARKERS[head],
                color=COLOURS[memories.index(memory) % len(COLOURS)],
                markersize=3,
                elinewidth=0.8,
            )
    panel.set_ylim(len(names) - 0.4, -0.6)
