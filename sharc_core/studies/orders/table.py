"""Tables and sentences of the study `orders`."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sharc_core.common.formats import number_text
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.results.comparisons import verdict
from sharc_core.results.display_names import method_key, method_name, scenario_key, scenario_name
from sharc_core.results.summary import unique
from sharc_core.results.table_formats import Item, Table, interval_text
from sharc_core.studies.measured_tables import write_measured_tables
from sharc_core.studies.orders.components import Components, Estimate, components, mean_interval

PLACE = ["dataset", "backbone", "scenario"]
TASKS = "tasks"  # the stream of sharp boundaries
GAIN = "gain"  # of SHARC over plain, in place of a variant
PARTS = ("order", "seed", "residual")
NEITHER = "neither"  # varies ACC by as much as a table shows
SMALLEST = 0.005  # points: deviations below it are shown as 0.00


def stream_key(name: str) -> tuple:
    """Return the sort key of a stream: sharp tasks, blurry ones by their share, then iid."""
    kind, _, share = name.partition(" ")
    return ([TASKS, "blurry", "iid"].index(kind), float(share or 0))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per data set, backbone, scenario, cell and stream.

    acc, acc_low, acc_high: mean ACC over orders and seeds, with the interval over further ones; for lines of
    variant GAIN of SHARC minus plain, paired by order and seed. <part>, <part>_low, <part>_high: variances
    (PARTS) in squared points, excess and share as in components.Components. varies_more: `orders`, `seeds`,
    `not told apart`, or NEITHER where ACC deviates by less than SMALLEST; there is then no share, and nothing
    is found. What varies ACC more is itself told apart from zero. order_found, seed_found: whether the
    variance is. over_tasks: ACC minus that on the stream of sharp tasks, paired by order and seed, with its
    interval.

    Raises ValueError if a run of an order and seed is missing or there twice.
    """
    lines = []
    for place, here in rows.groupby(PLACE, sort=False):
        values = _values(here)
        for (method, variant, stream), table in values.items():
            found = components(table)
            line = dict(zip(PLACE, place, strict=True)) | {"label": _label(method, variant)}
            line |= {"method": method, "variant": variant, "stream": stream}
            line |= {"orders": table.shape[0], "seeds": table.shape[1]}
            line |= _spread("acc", mean_interval(table))
            for name in (*PARTS, "excess", "share"):
                line |= _spread(name, getattr(found, name))
            line |= _verdicts(found)
            sharp = values.get((method, variant, TASKS))
            nothing = Estimate(math.nan, math.nan, math.nan)
            change = nothing if sharp is None or stream == TASKS else mean_interval(table - sharp)
            lines.append(line | _spread("over_tasks", change))
    return pd.DataFrame(lines)


def _verdicts(found: Components) -> dict[str, object]:
    """Return what the estimates show, as `summary` names it, and share as NaN where nothing varies.

    ACC is a mean over tasks. Where tasks have unequal numbers of test images, another order of the classes
    changes it by some thousandths of a point without any other prediction, which is no effect of the order.
    """
    deviation = math.sqrt(sum(max(0.0, getattr(found, part).value) for part in PARTS))
    if deviation < SMALLEST:
        none = dict.fromkeys(("share", "share_low", "share_high"), math.nan)
        return {"varies_more": NEITHER, "order_found": False, "seed_found": False} | none
    # rounding errors give a seed without effect a variance above zero
    order, seed = (part.low > 0 and part.value >= SMALLEST**2 for part in (found.order, found.seed))
    # a variance can only be the larger one if it is not zero, which the interval of the difference ignores
    is_order, is_seed = order and found.excess.low > 0, seed and found.excess.high < 0
    word = "orders" if is_order else "seeds" if is_seed else "not told apart"
    return {"varies_more": word, "order_found": order, "seed_found": seed}


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _label(method: str, variant: str) -> str:
    name = method_name(method)
    return {"plain": name, "sharc": f"{name} + SHARC", GAIN: f"SHARC - plain, {name}"}[variant]


def _values(rows: pd.DataFrame) -> dict[tuple[str, str, str], np.ndarray]:
    """Return ACC as a table (orders, seeds) by method, variant and stream, and the gains of SHARC."""
    tables: dict[tuple[str, str, str], np.ndarray] = {}
    variants = ["plain", "sharc"]
    for method in unique(rows.method, method_key):
        own = rows[rows.method == method]
        for stream in unique(own.stream, stream_key):
            by_variant = {}
            for variant in variants:
                chosen = own[(own.stream == stream) & (own.variant == variant)]
                if len(chosen):
                    by_variant[variant] = chosen.pivot(index="class_order", columns="seed", values="acc")
            if len(by_variant) == 2:
                by_variant[GAIN] = by_variant["sharc"] - by_variant["plain"]
            # rounded, so that equal accuracies have no variance
            tables |= {(method, n, stream): table.to_numpy().round(9) for n, table in by_variant.items()}
    order = [*variants, GAIN]
    return dict(sorted(tables.items(), key=lambda item: (method_key(item[0][0]), order.index(item[0][1]))))


def write_order_tables(rows: pd.DataFrame, folder: Path | str, config: str = UNKNOWN) -> list[Path]:
    """Write orders.csv, .md and .tex and return the paths. rows: of the jobs. config: the grid's hash."""
    origin = lineage(rows, config)
    return write_measured_tables(
        "orders",
        folder,
        origin,
        "Class orders and blurry tasks",
        summary(rows),
        sentences(rows),
        tables(rows),
    )


def tables(rows: pd.DataFrame) -> list[Table]:
    """Return a table per data set, backbone and scenario."""
    lines = summary(rows)
    groups = sorted(lines.groupby(PLACE, sort=False), key=lambda group: scenario_key(group[0][2]))
    return [_table(group, place) for place, group in groups]


def _table(lines: pd.DataFrame, place: tuple[str, str, str]) -> Table:
    header = ["Stream", "Cell", "ACC", "- sharp tasks", *PARTS, "share of orders", "varies more"]
    groups = [("", 4), ("standard deviation", 3), ("", 2)]
    body: list[list[Item]] = []
    breaks: list[int] = []
    for stream in unique(lines.stream, stream_key):
        breaks += [len(body)] if body else []
        for line in lines[lines.stream == stream].to_dict("records"):
            items = [Item(stream), Item(line["label"])]
            items += [_item(line, "acc"), _item(line, "over_tasks", signed=True)]
            items += [Item(deviation_text(line, part), math.sqrt(max(0.0, line[part]))) for part in PARTS]
            body.append([*items, _item(line, "share", signed=False), Item(line["varies_more"])])
    first = lines.iloc[0]
    caption = (
        f"{first.orders} class orders with {first.seeds} seeds each. ACC in percent (gains in percentage "
        "points) with the 95 % interval over further orders and seeds. Standard deviations in percentage "
        "points, from a model with two crossed random effects: order, seed, and residual, their interaction; "
        "with 95 % generalised confidence intervals. Share of orders: of the order's variance in the sum of "
        "the three. Varies more: which of order and seed has the larger variance, where its own interval and "
        f"that of the difference exclude zero; {NEITHER} if ACC deviates by less than {SMALLEST} points. On "
        "blurry and i.i.d. streams an order is also a draw of the samples of each task. Not corrected for "
        "the number of comparisons."
    )
    title = f"{scenario_name(place[2])}, {place[0]}, {place[1]}"
    return Table(title, caption, groups, header, body, breaks)


def _item(line: dict, name: str, signed: bool | None = None) -> Item:
    """Return a number with its interval; empty for NaN. signed: None for the numbers of gains alone."""
    if math.isnan(line[name]):
        return Item("")
    is_signed = line["variant"] == GAIN if signed is None else signed
    text = number_text(line[name], signed=is_signed)
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    interval = interval_text(low, high) if is_signed else f"[{number_text(low)}, {number_text(high)}]"
    return Item(f"{text} {interval}", line[name])


def deviation_text(line: dict, part: str) -> str:
    """Return a standard deviation with its interval; bounds of variances below zero count as zero."""
    value, low, high = (math.sqrt(max(0.0, line[f"{part}{end}"])) for end in ("", "_low", "_high"))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


# --- sentences -----------------------------------------------------------------------------------------


def sentences(rows: pd.DataFrame) -> list[str]:
    """Return what varies ACC more, what other streams change, and what SHARC gains over orders."""
    texts, lines = [], summary(rows)
    groups = sorted(lines.groupby(PLACE, sort=False), key=lambda group: scenario_key(group[0][2]))
    for (dataset, backbone, scenario), own in groups:
        where = f"{dataset} ({backbone}), {scenario_name(scenario)}"
        cells = own[own.variant != GAIN]
        for stream in unique(own.stream, stream_key):
            here = cells[cells.stream == stream].to_dict("records")
            if stream == TASKS:
                texts.append(f"{where}, sharp tasks: {_varying(here)}.")
            elif changes := _changing(here):
                texts.append(f"{where}, stream {stream} against sharp tasks: {changes}.")
        gains = own[(own.variant == GAIN) & (own.stream == TASKS)].to_dict("records")
        if gains:
            texts.append(f"{where}, SHARC against plain over further orders and seeds: {_gaining(gains)}.")
    return texts


def _varying(lines: Sequence[dict]) -> str:
    """State for which cells orders, or seeds, vary ACC more."""
    words = {
        "orders": "the class order varies ACC more than the seed for {}",
        "seeds": "the seed varies ACC more than the class order for {}",
        "not told apart": "orders and seeds are not told apart for {}",
        NEITHER: f"ACC deviates by less than {SMALLEST} points for {{}}",
    }
    parts = []
    for kind, text in words.items():
        chosen = [line for line in lines if line["varies_more"] == kind]
        named = [line["label"] if kind == NEITHER else _deviations(line) for line in chosen]
        parts += [text.format(", ".join(named))] if named else []
    return "; ".join(parts)


def _deviations(line: dict) -> str:
    parts = []
    for part in PARTS:
        apart = "" if line.get(f"{part}_found", True) else " (not told apart from zero)"
        parts.append(f"{part} {deviation_text(line, part)}{apart}")
    return f"{line['label']} (deviation by {', '.join(parts)})"


def _changing(lines: Sequence[dict]) -> str:
    """State which cells have another ACC than on sharp tasks."""
    parts = []
    for word in ("raised", "lowered", "not told apart"):
        named = [
            f"{line['label']} {_item(line, 'over_tasks', signed=True).text}"
            for line in lines
            if verdict(line["over_tasks_low"], line["over_tasks_high"]) == word
        ]
        parts += [f"{word}: {', '.join(named)}"] if named else []
    return "; ".join(parts)


def _gaining(lines: Sequence[dict]) -> str:
    parts = []
    for line in lines:
        word = verdict(line["acc_low"], line["acc_high"])
        apart = " (not told apart)" if word == "not told apart" else ""
        parts.append(f"{method_name(line['method'])} {_item(line, 'acc').text}{apart}")
    return ", ".join(parts)
