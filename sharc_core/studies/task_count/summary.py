"""What the rows of the study `task_count` show: means, gains of SHARC, and how costs grow with the stream."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from sharc_core.results.comparisons import verdict
from sharc_core.results.display_names import method_key, method_name
from sharc_core.results.statistics import confidence_interval, paired_test

PLACE = ["dataset", "backbone"]
CELL = ["method", "variant", "associative_memory", "forget_every"]
COSTS = {"train_seconds": "training time", "total_bytes": "bytes kept"}
TOLERANCE = 0.02  # of an exponent of bytes: labels and counters are no exact multiple of the classes
CLOSE = 0.1  # an interval this close around 1 shows linear growth
MISSING = "none"  # of cells without SHARC, and of memories that never forget


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with `label`, the name of the cell, in the order of methods, plain before SHARC."""
    rows = rows.assign(
        associative_memory=rows.associative_memory.fillna(MISSING), forget_every=rows.forget_every.fillna(0)
    )
    rows = rows.assign(label=[_label(row) for row in rows.itertuples()])
    order = sorted(
        rows[[*CELL, "label"]].drop_duplicates().itertuples(index=False),
        key=lambda cell: (method_key(cell.method), cell.variant, cell.associative_memory, cell.forget_every),
    )
    rank = {cell.label: number for number, cell in enumerate(order)}
    return rows.assign(rank=rows.label.map(rank)).sort_values(["rank", "tasks", "seed"], kind="stable")


def _label(row) -> str:
    if row.variant == "plain":
        return method_name(row.method)
    text = f"{method_name(row.method)} + {row.associative_memory}"
    return f"{text}, forgets every {row.forget_every:.0f}" if row.forget_every else text


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per cell, length of the stream and scenario.

    Means and sample deviations over seeds. acc_low, acc_high: 95 % Student-t interval of the mean ACC.
    over_chance: `above` or `below` chance, or `not told apart`; a dash with one seed. gain: ACC minus that of
    the plain cell of the same method on the same stream, paired by seed, with its interval; NaN for plain
    cells. task_seconds: training seconds per task.
    """
    rows, lines = labelled(rows), []
    for keys, own in rows.groupby([*PLACE, "scenario", "rank", "tasks"], sort=True):
        first = own.iloc[0]
        line = dict(zip([*PLACE, "scenario"], keys[:3], strict=True))
        line |= {name: first[name] for name in ("label", *CELL, "tasks", "classes", "chance")}
        line |= {"seeds": len(own)}
        for name in ("acc", "bwt", "train_seconds", "test_seconds", "other_seconds", "memory_growth"):
            line |= {f"{name}_mean": own[name].mean(), f"{name}_std": own[name].std(ddof=1)}
        low, high = confidence_interval(own.acc)
        line |= {
            "acc_low": low,
            "acc_high": high,
            "over_chance": _over(low - first.chance, high - first.chance),
        }
        line |= {name: own[name].mean() for name in ("samples_stored", "total_bytes", "peak_bytes")}
        line |= {"peak_memory": own.peak_memory.max(), "task_seconds": own.train_seconds.mean() / first.tasks}
        lines.append(line | _gain(own, rows))
    return pd.DataFrame(lines)


def _over(low: float, high: float) -> str:
    word = verdict(low, high)
    return {"raised": "above", "lowered": "below"}.get(word, word)


def _gain(own: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    first = own.iloc[0]
    values = dict.fromkeys(("gain", "gain_low", "gain_high"), math.nan)
    if first.variant == "plain":
        return values
    alike = (
        rows[[*PLACE, "scenario", "tasks", "method"]] == first[[*PLACE, "scenario", "tasks", "method"]]
    ).all(axis=1)
    plain = rows[alike & (rows.variant == "plain")]
    pairs = own.merge(plain, on="seed", suffixes=("", "_plain"))
    if len(pairs):
        test = paired_test(pairs.acc_plain, pairs.acc)
        values = {"gain": test.difference, "gain_low": test.low, "gain_high": test.high}
    return values


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per cell and cost: by which power of the number of tasks the cost grows.

    exponent: log(cost ratio) / log(ratio of tasks) between the two longest streams of the cell, `start` and
    `end`, mean over seeds with its 95 % Student-t interval; 1 is linear, 2 quadratic. verdict: `faster` where
    the interval is above 1, `slower` where it is below, `linear` where it is close around 1, otherwise
    `not told apart`.
    """
    rows, lines = labelled(rows), []
    rows = rows.drop_duplicates([*PLACE, "rank", "tasks", "seed"])  # costs are those of both scenarios
    for keys, own in rows.groupby([*PLACE, "rank"], sort=True):
        lengths = sorted(own.tasks.unique())[-2:]
        if len(lengths) < 2:
            continue
        start, end = (own[own.tasks == length].set_index("seed") for length in lengths)
        for cost, name in COSTS.items():
            line = dict(zip(PLACE, keys[:2], strict=True)) | {"label": own.label.iloc[0], "cost": name}
            line |= {"start": lengths[0], "end": lengths[1]}
            lines.append(line | _exponent(start[cost], end[cost], np.log(lengths[1] / lengths[0])))
    names = [*PLACE, "label", "cost", "start", "end", "exponent", "low", "high", "verdict"]
    return pd.DataFrame(lines, columns=names)


def _exponent(start: pd.Series, end: pd.Series, log_ratio: float) -> dict:
    values = (np.log(end / start) / log_ratio).dropna()
    low, high = confidence_interval(values)
    if math.isnan(low):
        word = "one seed"
    else:
        word = "linear" if low >= 1 - CLOSE and high <= 1 + CLOSE else "not told apart"
        word = "faster" if low > 1 + TOLERANCE else "slower" if high < 1 - TOLERANCE else word
    return {"exponent": values.mean(), "low": low, "high": high, "verdict": word}


def places(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield (data set, backbone) and their lines, in the order of the rows."""
    for place in dict.fromkeys(zip(frame.dataset, frame.backbone, strict=True)):
        yield place, frame[(frame.dataset == place[0]) & (frame.backbone == place[1])]
