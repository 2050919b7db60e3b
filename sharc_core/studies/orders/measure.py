"""One job of the study `orders`: cells on streams that differ in the order of the classes."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sharc_core.features.cache import Features
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc, bwt
from sharc_core.streams.settings import StreamConfig
from sharc_core.studies.orders.settings import COLUMNS, OrderJob


def stream_name(stream: StreamConfig) -> str:
    """Return `tasks`, `iid` or `blurry` with its share."""
    return stream.order if stream.blurry is None else f"blurry {stream.blurry:g}"


def run_orders(features: Features, job: OrderJob, progress: Callable[[str], None]) -> pd.DataFrame:
    """Return a row per cell, scenario and seed (COLUMNS; see docs/results.md)."""
    cells, rows = job.opened, []
    for number, cell in enumerate(cells, start=1):
        document = run_cell(features, cell)
        for scenario in cell.scenarios:
            matrix = np.array(document["matrix"][scenario], dtype=float)
            for seed, accuracy, transfer in zip(document["seeds"], acc(matrix), bwt(matrix), strict=True):
                rows.append(
                    {
                        "dataset": cell.dataset,
                        "backbone": cell.backbone,
                        "stream": stream_name(cell.stream),
                        "class_order": cell.stream.class_order_seed,
                        "method": cell.method,
                        "variant": cell.variant,
                        "scenario": scenario,
                        "seed": seed,
                        "acc": float(accuracy),
                        "bwt": float(transfer),
                    }
                )
        progress(f"cell {number}/{len(cells)}: order {cell.stream.class_order_seed}, {cell.id}")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
