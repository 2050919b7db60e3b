"""Run the cells of one data set and backbone again and again, and note time by phase, energy and memory."""

from collections.abc import Callable
from statistics import fmean

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.phases import measured
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.learning.learner import run_cell
from sharc_core.studies.time.resources import spent
from sharc_core.studies.time.settings import COLUMNS, SECONDS, TimeJob


def run_timing(features: Features, job: TimeJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Return a row per cell and repeat (COLUMNS; see docs/results.md).

    The cells run one after the other, and all of them before the next repeat, so that plain and SHARC meet
    the same load of the machine. Every repeat begins with another cell. The first round is not counted.
    """
    cells, rows = job.opened, []
    for repeat in range(-1, job.repeats):
        first = repeat % len(cells)
        for cell in cells[first:] + cells[:first]:
            row = _timed(features, cell)
            if repeat >= 0:
                rows.append(row | {"repeat": repeat})
        if repeat >= 0:
            progress(f"repeat {repeat + 1}/{job.repeats} of {len(cells)} cells")
    order = {cell.id: position for position, cell in enumerate(cells)}
    rows.sort(key=lambda row: (order[row["cell"]], row["repeat"]))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _timed(features: Features, cell: Cell) -> dict:
    with spent() as resources, measured() as seconds:
        document = run_cell(features, cell)
    costs = document["costs"]
    return {
        "dataset": cell.dataset,
        "backbone": cell.backbone,
        "cell": cell.id,
        "method": cell.method,
        "variant": cell.variant,
        "associative_memory": cell.associative_memory,
        "saliency": cell.saliency,
        "theta": cell.theta,
        "buffer": cell.buffer,
        "runs": len(cell.seeds),
        "samples_stored": costs["samples_stored"][0],
        **{SECONDS[name]: value for name, value in seconds.items()},
        **vars(resources),
        "kept_bytes": sum(costs["peak_bytes"]),
        "train_flops": fmean(costs["train_flops"]),
    }
