"""Run the cells of one data set and backbone again and again, and note time by phase, energy and memory."""

import time
from collections.abc import Callable
from statistics import fmean

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.deferred import torch
from sharc_core.common.phases import measured
from sharc_core.common.seeds import generator
from sharc_core.features.cache import Features
from sharc_core.grid.cell import Cell
from sharc_core.learning.learner import run_cell
from sharc_core.studies.time.resources import spent
from sharc_core.studies.time.settings import COLUMNS, SECONDS, TimeJob


def run_timing(features: Features, job: TimeJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Return a row per cell and repeat, several for a plain cell (COLUMNS; see docs/results.md).

    The cells run one after the other, and all of them before the next repeat, so that plain and SHARC meet
    the same load of the machine. The first round is not counted. Every repeat has an order of its own
    (`order`): what a run leaves in caches and memory lengthens the next one, and a cell that always followed
    the same other cell would be charged for it.
    """
    cells, rows = job.opened, []
    for cell in cells:
        _timed(features, cell)
    for repeat in range(job.repeats):
        for position, number in enumerate(order(cells, job.plain_runs, repeat)):
            rows.append(_timed(features, cells[number]) | {"repeat": repeat, "position": position})
        progress(f"repeat {repeat + 1}/{job.repeats} of {len(cells)} cells")
    numbers = {cell.id: number for number, cell in enumerate(cells)}
    rows.sort(key=lambda row: (numbers[row["cell"]], row["repeat"], row["position"]))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def order(cells: list[Cell], plain_runs: int, repeat: int) -> list[int]:
    """Return the numbers of the cells in the order in which a repeat runs them, drawn at random.

    A plain cell occurs plain_runs times, every other one once. Equal arguments give equal orders.
    """
    numbers = [
        number
        for number, cell in enumerate(cells)
        for _ in range(plain_runs if cell.variant == "plain" else 1)
    ]
    drawn = torch.randperm(len(numbers), generator=generator(0, "time", "order", repeat))
    return [numbers[place] for place in drawn.tolist()]


def _timed(features: Features, cell: Cell) -> dict:
    with spent() as resources, measured(cpu=True) as seconds:
        start = time.perf_counter()
        document = run_cell(features, cell)
        clock = time.perf_counter() - start
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
        "clock_seconds": clock,
        **vars(resources),
        "kept_bytes": sum(costs["peak_bytes"]),
        "train_flops": fmean(costs["train_flops"]),
    }
