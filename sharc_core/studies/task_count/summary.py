"""What the rows of the study `task_count` show: means, gains of SHARC, and how costs grow with the stream."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import binom

from sharc_core.common.formats import DASH
from sharc_core.results.comparisons import LEVEL
from sharc_core.results.display_names import method_key, method_name
from sharc_core.results.statistics import confidence_interval, paired_test

PLACE = ["dataset", "backbone"]
CELL = ["method", "variant", "associative_memory", "forget_every"]
COSTS = {
    "train_seconds": "training time",
    "test_seconds": "testing time",
    "other_seconds": "other time",
    "total_bytes": "bytes kept",
}
# How far an exponent may be from 1. Labels and counters are no exact multiple of the classes. Times of the
# same run differ by a few percent, and a step of training has a part that does not grow.
TOLERANCES = dict.fromkeys(COSTS, 0.2) | {"total_bytes": 0.02}
MISSING = "none"  # of cells without SHARC, and of memories that never forget
MEANS = ("acc", "bwt", "train_seconds", "test_seconds", "other_seconds", "run_seconds", "memory_growth")


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
    over_chance: `above` or `below` chance, or `not told apart`, by a two-sided binomial test (level 5 %) of
    the correct answers to all test images of all seeds; chance_p: its one-sided p-value against `above`.
    over_last_task: the same of Class-IL against 100 / T %, which a model has that knows only the last of T
    tasks; a dash in Task-IL. gain: ACC minus that of the plain cell of the same method on the same stream,
    paired by seed, with its interval; NaN for plain cells. forget: ACC minus that of the same cell that never
    forgets, likewise; forget_same: whether ACC is the same for every seed. task_seconds: training seconds per
    task. Seconds are the processor's, run_seconds the clock's.
    """
    rows, lines = labelled(rows), []
    for keys, own in rows.groupby([*PLACE, "scenario", "rank", "tasks"], sort=True):
        first = own.iloc[0]
        line = dict(zip([*PLACE, "scenario"], keys[:3], strict=True))
        line |= {name: first[name] for name in ("label", *CELL, "tasks", "classes", "chance")}
        line |= {"seeds": len(own)}
        for name in MEANS:
            line |= {f"{name}_mean": own[name].mean(), f"{name}_std": own[name].std(ddof=1)}
        low, high = confidence_interval(own.acc)
        correct, images = int(own.correct.sum()), int(own.test_images.sum())
        above, _ = _tails(correct, images, first.chance)
        line |= {
            "acc_low": low,
            "acc_high": high,
            "correct": correct,
            "test_images": images,
            "over_chance": _over(correct, images, first.chance),
            "chance_p": above,
            "over_last_task": _over(correct, images, 100 / first.tasks)
            if first.scenario == "class_il"
            else DASH,
        }
        line |= {name: own[name].mean() for name in ("samples_stored", "total_bytes", "peak_bytes")}
        line |= {"peak_memory": own.peak_memory.max(), "task_seconds": own.train_seconds.mean() / first.tasks}
        alike = (
            rows[[*PLACE, "scenario", "tasks", "method"]]
            == first[[*PLACE, "scenario", "tasks", "method"]].to_numpy()
        ).all(axis=1)
        lines.append(line | _gain(own, rows[alike]) | _forgetting(own, rows[alike]))
    return pd.DataFrame(lines)


def _tails(correct: int, images: int, percent: float) -> tuple[float, float]:
    """Return the chances of at least, and of at most, so many correct answers if `percent` are expected."""
    share = min(1.0, percent / 100)
    return float(binom.sf(correct - 1, images, share)), float(binom.cdf(correct, images, share))


def _over(correct: int, images: int, percent: float) -> str:
    above, below = _tails(correct, images, percent)
    return "above" if above < LEVEL / 2 else "below" if below < LEVEL / 2 else "not told apart"


def _gain(own: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    """Compare a cell with the plain one. rows: of the same method on the same stream."""
    if own.variant.iloc[0] == "plain":
        return _difference("gain", own, rows.iloc[:0])
    return _difference("gain", own, rows[rows.variant == "plain"])


def _forgetting(own: pd.DataFrame, rows: pd.DataFrame) -> dict:
    """Compare a cell that forgets with the one that does not. rows: of the same method on the same stream."""
    first = own.iloc[0]
    others = rows[(rows.associative_memory == first.associative_memory) & (rows.forget_every == 0)]
    values: dict = _difference("forget", own, others if first.forget_every else others.iloc[:0])
    pairs = own.merge(others, on="seed", suffixes=("", "_other"))
    return values | {"forget_same": bool(first.forget_every) and bool((pairs.acc == pairs.acc_other).all())}


def _difference(name: str, own: pd.DataFrame, others: pd.DataFrame) -> dict[str, float]:
    """Return the mean difference of ACC with its interval, paired by seed; NaN without a common seed."""
    pairs = own.merge(others, on="seed", suffixes=("", "_other"))
    values = (math.nan,) * 3
    if len(pairs):
        test = paired_test(pairs.acc_other, pairs.acc)
        values = (test.difference, test.low, test.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per cell and cost: by which power of the number of tasks the cost grows.

    exponent: log(cost ratio) / log(ratio of tasks) between the two longest streams of the cell, `start` and
    `end`, mean over the seeds of both; low, high: the smallest and the largest over these seeds. 1 is linear,
    2 quadratic. They describe these runs: seeds share a process, so there is no interval and no test.
    verdict: `linear` where no seed is further from 1 than TOLERANCES, `faster` or `slower` where all are, on
    one side, otherwise `unclear`. A cell without a common seed has no line.
    """
    rows, lines = labelled(rows), []
    rows = rows.drop_duplicates([*PLACE, "rank", "tasks", "seed"])  # costs are those of both scenarios
    for keys, own in rows.groupby([*PLACE, "rank"], sort=True):
        lengths = sorted(own.tasks.unique())[-2:]
        if len(lengths) < 2:
            continue
        start, end = (own[own.tasks == length].set_index("seed") for length in lengths)
        for cost, name in COSTS.items():
            ratio = np.log(end[cost] / start[cost].where(start[cost] > 0))
            values = (ratio / np.log(lengths[1] / lengths[0])).dropna()
            if len(values):
                line = dict(zip(PLACE, keys[:2], strict=True)) | {"label": own.label.iloc[0], "cost": name}
                line |= {"start": lengths[0], "end": lengths[1]}
                lines.append(line | _exponent(values, TOLERANCES[cost]))
    names = [*PLACE, "label", "cost", "start", "end", "exponent", "low", "high", "verdict"]
    return pd.DataFrame(lines, columns=names)


def _exponent(values: pd.Series, tolerance: float) -> dict:
    low, high = values.min(), values.max()
    word = "linear" if low >= 1 - tolerance and high <= 1 + tolerance else "unclear"
    word = "faster" if low > 1 + tolerance else "slower" if high < 1 - tolerance else word
    return {"exponent": values.mean(), "low": low, "high": high, "verdict": word}


def longest(lines: pd.DataFrame) -> pd.DataFrame:
    """Return each cell's lines on the longest stream that it ran on, in their order."""
    return lines[lines.tasks == lines.groupby([*PLACE, "label"]).tasks.transform("max")]


def places(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield (data set, backbone) and their lines, in the order of the rows."""
    for place in dict.fromkeys(zip(frame.dataset, frame.backbone, strict=True)):
        yield place, frame[(frame.dataset == place[0]) & (frame.backbone == place[1])]
