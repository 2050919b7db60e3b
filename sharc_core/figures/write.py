"""Write all figures of a grid and its studies, each with a JSON file that holds its captions."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import style

from sharc_core.backbones.names import has_batch_norms
from sharc_core.common.errors import UserError
from sharc_core.common.files import write_json
from sharc_core.figures.captions import caption_of
from sharc_core.figures.curves import curves_figure, curves_of
from sharc_core.figures.first_task import first_task_figure, first_task_of, first_task_words
from sharc_core.figures.memory_bytes import bytes_figure
from sharc_core.figures.protocols import protocols_figure
from sharc_core.figures.settings import settings_figure
from sharc_core.figures.style import STYLE, save
from sharc_core.figures.theta import theta_figure
from sharc_core.grid.sub_grid import MAIN, Study
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.display_names import scenario_key
from sharc_core.results.summary import runs_of, summarise

NAMES = ("learning_curves", "bytes")  # figures of the grid itself
FIRST_TASK = "first_task"  # a figure of all runs, of scenarios with several batch norms of a network
SETTINGS = ("associative_memory", "saliency")


def write_figures(
    cells: list[dict],
    runs: pd.DataFrame,
    folder: Path | str,
    studies: Mapping[str, Study] | None = None,
    config: str = UNKNOWN,
) -> list[Path]:
    """Write every figure as .svg, .png and .json, for the scenarios in its runs; return the paths.

    The figures are learning_curves_{scenario}, bytes_{scenario}, {study}_{scenario} for every study with a
    figure, and first_task_{scenario} where a network was run under frozen and another batch norm.

    cells: the documents that the runs come from (the curves need their matrices). The .json describes the
    figure and its origin: {"kind", "study", "scenario", "title", "alt", "caption", "origin"}; "study" is null
    for first_task, which shows all runs. config: the grid's hash.
    """
    paths, curves, first_task = [], curves_of(cells), first_task_of(cells)
    draw: dict[str, Any] = {
        "learning_curves": partial(curves_figure, curves=curves),
        "bytes": bytes_figure,
        "theta": theta_figure,
        "protocol": protocols_figure,
        FIRST_TASK: partial(first_task_figure, curves=first_task),
    } | {name: partial(settings_figure, setting=name) for name in SETTINGS}
    wanted: list[tuple[str | None, str | None, str, str | None]] = [
        (MAIN, kind, kind, None) for kind in NAMES
    ]
    wanted += [
        (name, s.figure, name, s.title or name.replace("_", " ")) for name, s in (studies or {}).items()
    ]
    wanted += [(None, FIRST_TASK, FIRST_TASK, None)] if has_batch_norms(runs["backbone"]) else []
    for study, kind, name, title in wanted:
        if kind is None:
            continue
        entries = summarise(runs, study)
        if not entries:
            raise UserError(f"runs.csv has no run of study {study}: run it again")
        for scenario in sorted({entry.scenario for entry in entries}, key=scenario_key):
            chosen = [entry for entry in entries if entry.scenario == scenario]
            is_first_task = kind == FIRST_TASK
            if is_first_task and not has_batch_norms(entry.backbone for entry in chosen):
                continue
            base = Path(folder) / f"{name}_{scenario}"
            # "default" undoes the settings of a user's matplotlibrc
            with style.context(["default", STYLE]):
                paths += save(draw[kind](chosen), base)
            about = {"kind": kind, "study": study, "scenario": scenario}
            origin = lineage(runs_of(runs, study, scenario), config)
            words = first_task_words(chosen, first_task) if is_first_task else caption_of(kind, chosen, title)
            write_json(base.with_suffix(".json"), about | words | {"origin": origin})
            paths.append(base.with_suffix(".json"))
    return paths
