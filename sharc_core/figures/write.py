"""Write the figures of a grid and its sub-grids, each with a JSON file that holds its captions."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

from sharc_core.common.errors import UserError
from sharc_core.common.files import write_json
from sharc_core.figures.captions import caption_of
from sharc_core.figures.compute import compute_figure
from sharc_core.figures.curves import curves_figure, curves_of
from sharc_core.figures.memory_bytes import bytes_figure
from sharc_core.figures.protocols import protocols_figure
from sharc_core.figures.ranks import ranks_figure
from sharc_core.figures.settings import settings_figure
from sharc_core.figures.sharc_gain import gain_figure
from sharc_core.figures.style import STYLE, save
from sharc_core.figures.theta import theta_figure
from sharc_core.grid.sub_grid import MAIN, MAIN_FIGURES, SubGrid
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_key
from sharc_core.results.main_figures import COMPUTE, GAIN, RANKS, further_figures
from sharc_core.results.summary import runs_of, summarise

SETTINGS = ("associative_memory", "saliency")


def write_figures(
    cells: list[dict],
    runs: pd.DataFrame,
    folder: Path | str,
    studies: Mapping[str, SubGrid] | None = None,
    config: str = UNKNOWN,
) -> list[Path]:
    """Write every figure as .svg, .png, .pdf and .json, for the scenarios in its runs; return the paths.

    The figures are learning_curves_{scenario}, bytes_{scenario}, those that further_figures names, and
    {name}_{scenario} for every sub-grid with a figure.

    cells: the documents that the runs come from (the curves need their matrices). studies: the sub-grids.
    The .json describes the figure and its origin: {"kind", "study", "scenario", "title", "alt", "caption",
    "origin"}. config: the grid's hash.
    """
    paths, curves = [], curves_of(cells)
    draw: dict[str, Any] = {
        "learning_curves": partial(curves_figure, curves=curves),
        "bytes": bytes_figure,
        "theta": theta_figure,
        "protocol": protocols_figure,
        GAIN: gain_figure,
        COMPUTE: compute_figure,
        RANKS: ranks_figure,
    } | {name: partial(settings_figure, setting=name) for name in SETTINGS}
    wanted: list[tuple[str, str | None, str, str | None]] = [
        (MAIN, kind, kind, None) for kind in (*MAIN_FIGURES, GAIN, COMPUTE, RANKS)
    ]
    wanted += [
        (name, s.figure, name, s.title or name.replace("_", " ")) for name, s in (studies or {}).items()
    ]
    for study, kind, name, title in wanted:
        if kind is None:
            continue
        entries = summarise(runs, study)
        if not entries:
            raise UserError(f"runs.csv has no run of study {study}: run it again")
        for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
            chosen = [entry for entry in entries if entry.scenario == scenario]
            if study == MAIN and kind not in (*MAIN_FIGURES, *further_figures(chosen)):
                continue
            base = Path(folder) / f"{name}_{scenario}"
            about: dict[str, object] = {"kind": kind, "study": study, "scenario": scenario}
            about |= caption_of(kind, chosen, title)
            about["origin"] = lineage(runs_of(runs, study, scenario), config)
            paths += write_figure(partial(draw[kind], chosen), base, about)
    return paths


def write_figure(draw: Callable[[], Figure], base: Path, about: Mapping[str, object]) -> list[Path]:
    """Write a figure as base.svg, base.png and base.pdf, and its description as base.json; return the paths.

    about: has "title", "alt" and "caption", which the report shows.
    """
    # "default" undoes the settings of a user's matplotlibrc
    with style.context(["default", STYLE]):
        paths = save(draw(), base)
    write_json(base.with_suffix(".json"), about)
    return [*paths, base.with_suffix(".json")]
