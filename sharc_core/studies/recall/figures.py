"""Figures of the recall study: measures and costs along every sweep, and pictures of recalled digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import bytes_text
from sharc_core.figures.style import FURTHER, STYLE, save
from sharc_core.studies.recall.pictures import Recalls
from sharc_core.studies.recall.table import with_times

# sweep: the column along x, its name, the column whose two values are solid and dashed lines
SWEEPS = {
    "masked": ("masked", "share of channels masked", "mask"),
    "noise": ("noise", "noise, deviations of the entries", None),
    "patterns": ("patterns", "stored maps", None),
    "tasks": ("later_tasks", "tasks written later", "forgetting"),
}
TITLES = {
    "masked": "Recall against the share of channels masked",
    "noise": "Recall against noise on the cue",
    "patterns": "Recall against the number of stored maps",
    "tasks": "Recall of the first task's maps after later tasks",
}
DASHED = (0, (3, 1.5))
LINES: dict[str, dict[Any, tuple[Any, str]]] = {
    "mask": {"saliency": ("-", "masked by saliency"), "random": (DASHED, "masked at random")},
    "forgetting": {False: ("-", "nothing forgotten"), True: (DASHED, "forgetting before\neach task")},
}
PANELS = {
    "relative_error": "relative error",
    "cosine": "cosine",
    "nearest": "nearest to its own, %",
    "exact": "exact, %",
    "agreement": "head agrees, %",
    "state_bytes": "bytes of the memory",
    "write_ms": "writing, ms per map",
    "read_ms": "reading, ms per map",
}
PERCENT = ("nearest", "exact", "agreement")
COSTS = ("state_bytes", "write_ms", "read_ms")
OF_UNSEEN = ("relative_error", "cosine", "exact")  # not defined where nothing is masked
WORST = 3.0  # larger relative errors are off the panel; the mean map has 1
LOOKS = {
    "none": ("#8c8c8c", "X"),
    "mean": ("#e69f00", "s"),
    "hopfield": ("#56b4e9", "D"),
    "modern_hopfield": ("#0072b2", "o"),
    "pcn": ("#d55e00", "P"),
    "bayespcn": ("#cc79a7", "^"),
    "bayespcn_exact": ("#332288", "<"),
    "autoencoder": ("#009e73", "v"),
}


def look(memory: str, memories: list[str]) -> tuple[str, str]:
    """Return colour and marker of an AM. AMs that users add share further ones in order."""
    if memory in LOOKS:
        return LOOKS[memory]
    return FURTHER[sorted(set(memories) - set(LOOKS)).index(memory) % len(FURTHER)]


def write_recall_figures(
    rows: pd.DataFrame, folder: Path | str, sweeps: Sequence[str] = tuple(SWEEPS)
) -> list[Path]:
    """Write recall_{masked,noise,patterns,tasks}.{svg,png,pdf} and return the paths. rows: rows.read_rows."""
    written, rows = [], with_times(rows)
    with style.context(["default", STYLE]):
        for sweep in sweeps:
            written += save(_sweep_figure(rows, sweep), Path(folder) / f"recall_{sweep}")
    return written


def _sweep_figure(rows: pd.DataFrame, sweep: str) -> Figure:
    """Draw two lines of panels per data set and backbone, one panel per measure and cost."""
    memories = list(dict.fromkeys(rows.memory))
    places = list(dict.fromkeys(zip(rows.dataset, rows.backbone, strict=True)))
    figure = Figure(figsize=(11.2, 4.4 * len(places) + 0.3), layout="constrained")
    where = f": {', '.join(places[0])}" if len(places) == 1 else ""
    how = "mean ± standard deviation (times: the fastest seed)"
    figure.suptitle(_plain(f"{TITLES[sweep]}{where}; {how}"))
    blocks = figure.subfigures(len(places), 1, squeeze=False)[:, 0]
    for block, (dataset, backbone) in zip(blocks, places, strict=True):
        here = rows[(rows.sweep == sweep) & (rows.dataset == dataset) & (rows.backbone == backbone)]
        if not where:
            block.suptitle(_plain(f"{dataset}, {backbone}"), fontsize=9)
        for panel, name in zip(block.subplots(2, 4).flat, PANELS, strict=True):
            for memory in memories:
                _draw(panel, here[here.memory == memory], name, sweep, look(memory, memories))
            _dress(panel, name, sweep)
    measured = set(rows[(rows.sweep == sweep) & rows.relative_error.notna()].memory)
    figure.legend(handles=_handles(memories, measured, sweep), loc="outside right center")
    return figure


def _draw(panel: Axes, rows: pd.DataFrame, name: str, sweep: str, looks: tuple[str, str]) -> None:
    along, _, split = SWEEPS[sweep]
    colour, marker = looks
    measured = rows[rows[name].notna()]
    if name in OF_UNSEEN:
        measured = measured[measured.masked > 0]
    if name in COSTS:
        measured = measured[measured[name] > 0]  # on a logarithmic axis: `none` keeps no byte
    for value, (dash, _) in LINES[split].items() if split else [(None, ("-", ""))]:
        chosen = measured[measured[split] == value] if split else measured
        if not len(chosen):
            continue  # an unclipped line of no points would upset the layout
        groups = chosen.groupby(along)[name]
        # other work on the machine makes a time longer, never shorter
        mean, std = groups.min() if name in COSTS else groups.mean(), groups.std(ddof=1).fillna(0)
        factor = 100 if name in PERCENT else 1
        x, y, spread = mean.index.to_numpy(), mean.to_numpy() * factor, std.to_numpy() * factor
        panel.plot(x, y, color=colour, marker=marker, markersize=3.5, linestyle=dash, clip_on=False)
        if name not in COSTS:
            panel.fill_between(x, y - spread, y + spread, color=colour, alpha=0.1, linewidth=0)


def _dress(panel: Axes, name: str, sweep: str) -> None:
    panel.set_title(PANELS[name])
    panel.set_xlabel(SWEEPS[sweep][1])
    if sweep == "patterns":
        panel.set_xscale("log")
    if sweep == "masked":
        panel.set_xlim(-0.04, 1)
    if sweep == "tasks":
        locator: Any = panel.xaxis.get_major_locator()
        locator.set_params(integer=True)
    values = np.concatenate([line.get_ydata() for line in panel.lines] or [np.zeros(0)])
    if name in PERCENT:
        panel.set_ylim(-3, 103)
    elif name in COSTS:
        if len(values):
            panel.set_yscale("log")
            panel.set_ylim(values.min() / 2, values.max() * 2)
    else:
        panel.set_ylim(values.min(initial=0) - 0.03, min(values.max(initial=1) * 1.05, WORST))
        for line in panel.lines:  # the rest may stand on the frame; what is off the scale is cut
            line.set_clip_on(bool(np.asarray(line.get_ydata()).max(initial=0) > WORST))
    if name == "state_bytes":
        panel.yaxis.set_major_formatter(FuncFormatter(_bytes_label))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _bytes_label(value: float, _position: int | None = None) -> str:
    return bytes_text(value).replace(".00", "").replace(".0", "")


def _handles(memories: list[str], measured: set[str], sweep: str) -> list[Line2D]:
    handles = []
    for memory in memories:
        colour, marker = look(memory, memories)
        label = _plain(memory) + ("" if memory in measured else "\n(refused)")
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=5, label=label))
    split = SWEEPS[sweep][2]
    for dash, label in LINES[split].values() if split else []:
        handles.append(Line2D([], [], color="#444444", linestyle=dash, label=label))
    return handles


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar sign would start a formula


def write_picture_figure(results: list[Recalls], folder: Path | str, shown: int = 6) -> list[Path]:
    """Write recall_pictures.{svg,png,pdf}: per kind of cue a block with originals, cues and AMs' recalls.

    Each AM's name has its relative error over all images. shown: number of images drawn per block.
    """
    with style.context(["default", STYLE, {"axes.grid": False}]):
        figure = _picture_figure(results, shown)
        return save(figure, Path(folder) / "recall_pictures")


def _picture_figure(results: list[Recalls], shown: int) -> Figure:
    shown = min(shown, len(results[0].images))
    names = list(results[0].recalled)
    lines, inch = 2 + len(names), 0.72
    figure = Figure(figsize=((inch * shown + 1.4) * len(results), inch * lines + 0.9), layout="constrained")
    figure.suptitle(f"Recall of {len(results[0].images)} stored digits, {_size(results[0])} pixels")
    blocks = figure.subfigures(1, len(results), squeeze=False)[0]
    for block, recalls in zip(blocks, results, strict=True):
        block.suptitle(recalls.cue, fontsize=8)
        panels = block.subplots(lines, shown, squeeze=False)
        for panel in panels.flat:
            panel.set_xticks([])
            panel.set_yticks([])
            for spine in panel.spines.values():
                spine.set_visible(False)
        _label(panels[0, 0], "original")
        _label(panels[1, 0], "cue")
        for column in range(shown):
            image, seen = recalls.images[column].numpy(), recalls.seen[column].numpy()
            _image(panels[0, column], image)
            _image(panels[1, column], np.where(seen, image, np.nan))
        for line, name in zip(panels[2:], names, strict=True):
            recalled = recalls.recalled[name]
            if isinstance(recalled, str):
                _label(line[0], f"{name}\nrefused")
                continue
            _label(line[0], f"{_plain(name)}\nerror {recalls.errors[name]:.2f}")
            for column in range(shown):
                _image(line[column], recalled[column].numpy())
    return figure


def _size(recalls: Recalls) -> str:
    return " x ".join(map(str, recalls.images.shape[1:]))


def _label(panel: Axes, text: str) -> None:
    panel.set_ylabel(text, rotation=0, ha="right", va="center", labelpad=6)


def _image(panel: Axes, image: np.ndarray) -> None:
    panel.set_facecolor("#f3c9a5")  # where nothing is seen
    panel.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
