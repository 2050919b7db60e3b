"""The figure of the study `saliency_curves`: accuracy against the share of channels deleted and inserted."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sharc_core.common.deferred import pandas as pd
from sharc_core.figures.style import FURTHER, GREY, PLAIN, panel_grid
from sharc_core.figures.write import write_figure
from sharc_core.studies.saliency_curves.measure import DELETION, INSERTION, INVERSE, RANDOM, SALIENT

PANEL = (2.5, 2.1)  # inches
COLOURS = {
    "gradient": "#d55e00",
    "gradient_x_activation": "#0072b2",
    "integrated_gradients": "#56b4e9",
    "occlusion": "#009e73",
    "activation": "#e69f00",
    "random": "#8c8c8c",
}
WIDTHS = {"gradient_x_activation": 3.2, "integrated_gradients": 2.2}  # where three lines coincide, all show


def saliency_colour(name: str, names: list[str]) -> str:
    """Return the colour of a saliency; those that users add share further ones in order."""
    if name in COLOURS:
        return COLOURS[name]
    return FURTHER[sorted(set(names) - set(COLOURS)).index(name) % len(FURTHER)][0]


def write_curve_figure(rows: pd.DataFrame, folder: Path | str) -> list[Path]:
    """Write saliency_curves_accuracy.{svg,png,pdf,json} and return the paths. rows: of the jobs."""
    words = {
        "title": "Does saliency point at what matters?",
        "alt": "Accuracy against the share of the channels deleted or inserted, a line per saliency.",
        "caption": (
            "Accuracy of a head trained as JOINT on test features, mean over seeds, while channels are "
            "deleted (top) or inserted (bottom), the most salient first. Dotted: deletion in the inverse "
            "order; its mirror image is insertion. Black dashes: random orders."
        ),
    }
    return write_figure(lambda: curve_figure(rows), Path(folder) / "saliency_curves_accuracy", words)


def curve_figure(rows: pd.DataFrame) -> Figure:
    """Return a figure with deletion above insertion, a column per data set, backbone and head."""
    points = rows[rows.sweep.isin([DELETION, INSERTION])]
    keys = ["sweep", "dataset", "backbone", "head", "saliency", "order", "share"]
    means = points.groupby(keys, sort=False).accuracy.mean().reset_index()
    places = list(dict.fromkeys(zip(means.dataset, means.backbone, means["head"], strict=True)))
    several = means.backbone.nunique() > 1
    names = list(dict.fromkeys(means.saliency))
    figure, panels = panel_grid(2, len(places), PANEL)
    for column, (dataset, backbone, head) in enumerate(places):
        where = (means.dataset == dataset) & (means.backbone == backbone) & (means["head"] == head)
        title = f"{dataset}{f', {backbone}' if several else ''}, {head}".replace("$", r"\$")
        for panel, sweep in zip(panels[:, column], (DELETION, INSERTION), strict=True):
            here = means[where & (means.sweep == sweep)]
            for name in names:
                _draw(panel, here[here.saliency == name], sweep, saliency_colour(name, names), name)
            at_random = here[here.order == RANDOM].groupby("share").accuracy.mean()
            panel.plot(at_random.index, at_random, color="black", linestyle=PLAIN, linewidth=1)
            panel.set_title(title)
            panel.set_xlabel("share deleted" if sweep == DELETION else "share inserted")
            panel.set_ylim(-2, 102)
            if column == 0:
                panel.set_ylabel("accuracy, %")
    handles = [
        Line2D([], [], color=saliency_colour(name, names), label=name.replace("$", r"\$")) for name in names
    ]
    handles.append(Line2D([], [], color="black", linestyle=PLAIN, linewidth=1, label="random order"))
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="inverse order"))
    figure.legend(handles=handles, loc="outside right center")
    return figure


def _draw(panel, lines: pd.DataFrame, sweep: str, colour: str, name: str) -> None:
    own = lines[lines.order == SALIENT]
    panel.plot(own.share, own.accuracy, color=colour, linewidth=WIDTHS.get(name, 1.3))
    if sweep == DELETION:
        inverse = lines[lines.order == INVERSE]
        panel.plot(inverse.share, inverse.accuracy, color=colour, linestyle=":", linewidth=1)
