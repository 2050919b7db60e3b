"""The figure of the study `memory_bound`: bytes per map against theta."""

from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.formats import bytes_text
from sharc_core.figures.style import DOTTED, GREY, PLAIN
from sharc_core.figures.write import write_figure
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.studies.memory_bound.settings import COMPRESSORS, MAPS
from sharc_core.studies.memory_bound.table import BOUNDED, PLACE, sentences

PANEL = (3.4, 3.0)  # inches
MOST = 3  # panels side by side
BOUNDS = {  # column: label, colour, line
    "any_bytes": ("bound: every map", "#000000", DOTTED),
    "zeros_bytes": ("bound: only zeros known", "#e69f00", PLAIN),
    "entropy_bytes": ("bound: one distribution", "#d55e00", PLAIN),
}
COMPRESSED = {"zlib": ("#009e73", "^"), "lzma": ("#56b4e9", "v"), "zstd": ("#cc79a7", "D")}
STORED = (("#0072b2", "o"), ("#882255", "s"), ("#999933", "P"), ("#661100", "X"))  # by storage


def write_bound_figure(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write memory_bound_theta.{svg,png,pdf,json} and return the paths. config: hash of the grid."""
    first = rows[rows.kind == MAPS].storage.iloc[0]
    about = {
        "kind": "memory_bound",
        "title": "Bytes per map against the share of channels dropped",
        "alt": "Lines of bytes per map against theta. " + " ".join(sentences(rows)),
        "caption": f"Stored bytes of every storage; bounds and compressors (all maps at once) for {first}. "
        f"{BOUNDED}. The grey dotted level is a pooled vector in float16.",
        "origin": lineage(rows, config),
    }
    return write_figure(partial(_figure, rows[rows.kind == MAPS]), Path(folder) / "memory_bound_theta", about)


def _figure(rows: pd.DataFrame) -> Figure:
    groups = list(rows.groupby(PLACE, sort=False))
    width = min(len(groups), MOST)
    height = -(-len(groups) // width)
    figure = Figure(figsize=(PANEL[0] * width + 1.5, PANEL[1] * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).flat
    for panel in axes[len(groups) :]:
        panel.set_visible(False)
    for panel, (place, group) in zip(axes, groups, strict=False):
        panel.set_title(", ".join(place).replace("$", r"\$"))
        _draw(panel, group)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    return figure


def _draw(panel: Axes, group: pd.DataFrame) -> None:
    storages = list(dict.fromkeys(group.storage))
    for number, storage in enumerate(storages):
        own = group[group.storage == storage].sort_values("theta")
        colour, marker = STORED[number % len(STORED)]
        panel.plot(own.theta, own.stored_bytes, color=colour, marker=marker, ms=4, label=f"stored, {storage}")
    own = group[group.storage == storages[0]].sort_values("theta")
    for column, (label, colour, line) in BOUNDS.items():
        panel.plot(own.theta, own[column], color=colour, linestyle=line, label=label)
    for name in COMPRESSORS:
        sizes = own[f"{name}_bytes"]
        if sizes.notna().any():
            colour, marker = COMPRESSED[name]
            panel.plot(own.theta, sizes, color=colour, marker=marker, ms=3, linewidth=0.9, label=name)
    panel.axhline(
        2 * own.channels.iloc[0], color=GREY, linestyle=DOTTED, linewidth=0.9, label="pooled, float16"
    )
    panel.set_xlabel("theta, share of the channels dropped")
    panel.set_ylabel("bytes per map")
    panel.set_ylim(0)
    panel.yaxis.set_major_formatter(lambda y, _: bytes_text(y))
