"""The figure of the study `robustness`: relative error and accuracy of every memory by kind of cue."""

from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.figures.style import panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.studies.recall.figures import look
from sharc_core.studies.robustness.settings import CUES, SALIENCY
from sharc_core.studies.robustness.table import ALL, NAMES, PLACE, of_true, sentences, summary

PANEL = (2.6, 3.0)  # inches
MEASURES = {"relative_error": "relative error", "accuracy": "top-1 accuracy, %"}
SPREAD = 0.7  # of the distance of two cues, over which the memories are spread


def write_robustness_figure(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write robustness_cues.{svg,png,pdf,json} and return the paths. config: the grid's hash."""
    about = {
        "kind": "robustness",
        "title": "Recall by kind of cue",
        "alt": "Markers per associative memory and kind of cue. " + " ".join(sentences(rows)),
        "caption": "Relative error (1: as good as the mean of the stored maps) and accuracy of a head on the "
        "recalled maps, mean over seeds with the sample standard deviation. Dashed: the head on the true "
        "maps of the stored images.",
        "origin": lineage(rows, config),
    }
    return write_figure(partial(_figure, rows), Path(folder) / "robustness_cues", about)


def _figure(rows: pd.DataFrame) -> Figure:
    lines = summary(rows)
    lines = lines[lines.dataset != ALL]
    groups = list(lines.groupby([*PLACE, "theta"], sort=False))
    memories, several = list(dict.fromkeys(lines.memory)), lines.backbone.nunique() > 1
    figure, panels = panel_grid(len(MEASURES), len(groups), PANEL)
    for column, ((dataset, backbone, theta), group) in enumerate(groups):
        for panel, (name, label) in zip(panels[:, column], MEASURES.items(), strict=True):
            title = f"{dataset}{f', {backbone}' if several else ''}, theta {theta:g}"
            panel.set_title(title.replace("$", r"\$"))
            _draw(panel, group, name, memories)
            panel.set_xlabel(label)
            panel.set_yticks(range(len(CUES)), [NAMES[cue] for cue in CUES] if not column else [])
            panel.set_ylim(len(CUES) - 0.5, -0.5)
    handles = []
    for memory in memories:
        colour, marker = look(memory, memories)
        label = memory.replace("$", r"\$")
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=label))
    figure.legend(handles=handles, loc="outside right center")
    return figure


def _draw(panel: Axes, lines: pd.DataFrame, name: str, memories: list[str]) -> None:
    if name == "accuracy":
        level = of_true(lines, SALIENCY, "true_accuracy")
        panel.axvline(level, color="#444444", dashes=(4, 2), linewidth=0.8)
    for number, memory in enumerate(memories):
        own = lines[(lines.memory == memory) & lines[name].notna()]
        offset = SPREAD * ((number + 0.5) / len(memories) - 0.5)
        colour, marker = look(memory, memories)
        panel.errorbar(
            own[name],
            [CUES.index(cue) + offset for cue in own.cue],
            xerr=own[f"{name}_std"].fillna(0),
            color=colour,
            marker=marker,
            markersize=3.5,
            linestyle="",
            elinewidth=0.8,
        )
