"""The paper's tables (arXiv 2310.04334), for comparison with ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.errors import UserError
from sharc_core.methods import traits
from sharc_core.results.display_names import PAPER_ORDER, method_name
from sharc_core.results.statistics import welch

SOURCE = "arXiv 2310.04334"
PUBLISHED_TASKS = {"s_cifar10": 5, "s_cifar100": 20, "s_miniimagenet": 20}
SEEDS = 5  # number of runs of each published mean and deviation
SETTING = (
    "ResNet-18 with ImageNet weights at 224 px, whose batch statistics drift while the head trains; BayesPCN "
    "as associative memory"
)
COLUMNS = ["scenario", "dataset", "buffer", "method", "variant", "acc_mean", "acc_std", "bwt_mean", "bwt_std"]


def load_published(path: Path | str) -> pd.DataFrame:
    """Read the published means and deviations, columns COLUMNS, with our names for methods and variants.

    path: workflow/paper/paper_results.csv. JOINT's BWT is dropped: the paper computes it relative to an
    untrained head, which is a different quantity. Raises UserError for any other file.
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
    ours = {method_name(method): method for method in PAPER_ORDER}
    unknown = sorted(set(frame["method"]) - set(ours))
    if unknown:
        raise UserError(f"{path}: unknown method {unknown[0]!r}; valid: {', '.join(ours)}")
    frame["method"] = frame["method"].map(ours)
    frame["variant"] = frame["sharc"].map({0: "plain", 1: "sharc"})
    joint = frame["method"].map(lambda method: traits(method).joint)
    frame.loc[joint, ["bwt_mean", "bwt_std"]] = float("nan")
    return frame[COLUMNS]


def with_published_streams(published: pd.DataFrame, values: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the published rows without those of data sets whose stream in a grid is another one.

    The paper's streams have PUBLISHED_TASKS tasks of equal size, one after the other. values: the grid's keys
    and values; all rows without them.
    """
    datasets = (values or {}).get("datasets", {})
    others = []
    for name, tasks in PUBLISHED_TASKS.items():
        block = datasets.get(name, {"tasks": tasks})
        is_mixed = block.get("order", "tasks") != "tasks" or block.get("labels", "joined") != "joined"
        if block["tasks"] != tasks or is_mixed:
            others.append(name)
    return published[~published["dataset"].isin(others)]


def no_published() -> pd.DataFrame:
    """Return an empty table of published results, for reports without a comparison with the paper."""
    return pd.DataFrame(columns=COLUMNS)


def published_lookup(published: pd.DataFrame) -> dict[tuple, dict[str, float]]:
    """Map (scenario, dataset, buffer or None, method, variant) to acc_mean, acc_std, bwt_mean and bwt_std."""
    lookup = {}
    for row in published.to_dict("records"):
        buffer = None if pd.isna(row["buffer"]) else int(row["buffer"])
        key = (row["scenario"], row["dataset"], buffer, row["method"], row["variant"])
        lookup[key] = {name: float(row[name]) for name in COLUMNS[5:]}
    return lookup


class PublishedPair(NamedTuple):
    """A method's published ACC without and with SHARC, and the difference with Welch's 95 % interval."""

    plain: float
    sharc: float
    difference: float
    low: float
    high: float


def published_pairs(lookup: dict[tuple, dict[str, float]]) -> dict[tuple, PublishedPair]:
    """Map (scenario, dataset, buffer, method) to the published pair; the paper has 72.

    The interval is for two independent samples, as the paper does not report which runs share a seed.
    """
    pairs = {}
    for (scenario, dataset, buffer, method, variant), plain in lookup.items():
        sharc = lookup.get((scenario, dataset, buffer, method, "sharc"))
        if variant == "plain" and sharc:
            values = (plain["acc_mean"], plain["acc_std"], sharc["acc_mean"], sharc["acc_std"])
            pairs[scenario, dataset, buffer, method] = PublishedPair(
                values[0], values[2], *welch(*values, n=SEEDS)
            )
    return pairs


def published_for(entry, lookup: dict[tuple, dict[str, float]]) -> dict[str, float] | None:
    """Return the published values of a summary.Entry, for any theta and memory; None where there are none."""
    if entry.budget_unit == "total_bytes":
        return None  # its buffers are no numbers of samples
    return lookup.get((entry.scenario, entry.dataset, entry.buffer, entry.method, entry.variant))
