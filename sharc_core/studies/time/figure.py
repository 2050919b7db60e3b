"""The figure of the study `time`: CPU seconds of every cell, stacked by phase."""

from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharc_core.common.deferred import pandas as pd
from sharc_core.figures.style import GREY
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.studies.time.settings import SECONDS
from sharc_core.studies.time.table import PLACE, TRAINING, ratio_text, sentences, summary

COLOURS = {
    "saliency": "#e69f00",
    "writing": "#d55e00",
    "reading": "#cc79a7",
    "storing": "#009e73",
    "steps": "#0072b2",
    "other": "#b0b0b0",
}
ROW = 0.27  # inches per cell
WIDTH = 6.6  # inches


def write_time_figure(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write time_phases.{svg,png,pdf,json} and return the paths. rows: of the jobs. config: grid's hash."""
    about = {
        "kind": "time",
        "title": "Training time by phase, plain and with SHARC",
        "alt": "Stacked bars of the training time of every cell. " + " ".join(sentences(rows)),
        "caption": "Mean CPU milliseconds of a cell by phase, without testing. Behind a bar: its ratio to "
        "the plain cell of the same method, with the 95 % interval over repeats.",
        "origin": lineage(rows, config),
    }
    return write_figure(partial(_figure, rows), Path(folder) / "time_phases", about)


def _figure(rows: pd.DataFrame) -> Figure:
    groups = list(summary(rows).groupby(PLACE, sort=False))
    heights = [len(lines) + 2.6 for _, lines in groups]
    figure = Figure(figsize=(WIDTH, ROW * sum(heights) + 0.4), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (place, lines) in zip(panels, groups, strict=True):
        panel.set_title(", ".join(place).replace("$", r"\$"))
        _bars(panel, lines)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _bars(panel: Axes, lines: pd.DataFrame) -> None:
    at = range(len(lines))
    left = pd.Series(0.0, index=lines.index)
    for name in TRAINING:
        width = 1000 * lines[f"{SECONDS[name]}_mean"]
        panel.barh(at, width, left=left, height=0.7, color=COLOURS[name], label=name)
        left = left + width
    for position, line, end in zip(at, lines.itertuples(), left, strict=True):
        if line.ratio == line.ratio:
            panel.annotate(
                ratio_text(line),
                (end, position),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                color=GREY,
            )
    panel.set_yticks(at, [text.replace("$", r"\$") for text in lines.label])
    panel.set_ylim(len(lines) - 0.4, -0.6)
    panel.set_xlim(0, left.max() * 1.22)
    panel.set_xlabel("CPU time of training, ms")
