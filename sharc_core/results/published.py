"""The paper's tables (arXiv 2310.04334), to stand beside ours."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sharc_core.common.errors import UserError
from sharc_core.learning.metrics import welch
from sharc_core.results.display_names import METHOD_NAMES

SOURCE = "arXiv 2310.04334"
SEEDS = 5  # runs behind each published mean and deviation
SETTING = (
    "ResNet-18 with ImageNet weights at 224 px, whose batch statistics drift while the head trains; BayesPCN "
    "as associative memory"
)
COLUMNS = ["scenario", "dataset", "buffer", "method", "variant", "acc_mean", "acc_std", "bwt_mean", "bwt_std"]


def load_published(path: Path | str) -> pd.DataFrame:
    """Published means and deviations, columns COLUMNS, with our names for methods and variants.

    path: workflow/paper/paper_results.csv. BWT of JOINT is left out: the paper takes it against an
    untrained head, which is another quantity.
    Raises UserError for another file.
    """
    try:
        frame = pd.read_csv(path, dtype={"buffer": "Int64", "dataset": "str"})
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except ValueError as error:
        raise UserError(f"{path} is not a table of published results ({error})") from None
    missing = [name for name in (*COLUMNS[:4], "sharc", *COLUMNS[5:]) if name not in frame]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}")
    ours = {name: method for method, name in METHOD_NAMES.items()}
    unknown = sorted(set(frame["method"]) - set(ours))
    if unknown:
        raise UserError(f"{path}: unknown method {unknown[0]!r}; valid: {', '.join(ours)}")
    frame["method"] = frame["method"].map(ours)
    frame["variant"] = frame["sharc"].map({0: "plain", 1: "sharc"})
    joint = frame["method"] == "joint"
    frame.loc[joint, ["bwt_mean", "bwt_std"]] = float("nan")
    return frame[COLUMNS]


def no_published() -> pd.DataFrame:
    """An empty table of published results, for grids that stand alone."""
    return pd.DataFrame(columns=COLUMNS)


def published_lookup(published: pd.DataFrame) -> dict[tuple, dict[str, float]]:
    """(scenario, dataset, buffer or None, method, variant) -> {acc_mean, acc_std, bwt_mean, bwt_std}."""
    found = {}
    for row in published.to_dict("records"):
        buffer = None if pd.isna(row["buffer"]) else int(row["buffer"])
        key = (row["scenario"], row["dataset"], buffer, row["method"], row["variant"])
        found[key] = {name: float(row[name]) for name in COLUMNS[5:]}
    return found


class PublishedPair(NamedTuple):
    """The paper's ACC of a method without and with SHARC, and their difference with Welch's 95 % interval."""

    plain: float
    sharc: float
    difference: float
    low: float
    high: float


def published_pairs(lookup: dict[tuple, dict[str, float]]) -> dict[tuple, PublishedPair]:
    """(scenario, dataset, buffer, method) -> the published pair; 72 of them in the paper.

    The interval is for two independent samples: which runs shared a seed was not published.
    """
    found = {}
    for (scenario, dataset, buffer, method, variant), plain in lookup.items():
        sharc = lookup.get((scenario, dataset, buffer, method, "sharc"))
        if variant == "plain" and sharc:
            values = (plain["acc_mean"], plain["acc_std"], sharc["acc_mean"], sharc["acc_std"])
            found[scenario, dataset, buffer, method] = PublishedPair(
                values[0], values[2], *welch(*values, n=SEEDS)
            )
    return found


def published_for(entry, lookup: dict[tuple, dict[str, float]]) -> dict[str, float] | None:
    """The published values of a summary.Entry, whatever its theta and memory; None where there are none."""
    return lookup.get((entry.scenario, entry.dataset, entry.buffer, entry.method, entry.variant))
