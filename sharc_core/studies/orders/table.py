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
from sharc_core.studies.orders.components import Estimate, components, mean_interval

PLACE = ["dataset", "backbone", "scenario"]
TASKS = "tasks"  # the stream of sharp boundaries
GAIN = "gain"  # of SHARC over plain, in place of a variant
PARTS = ("order", "seed", "residual")
EXCESS = {"raised": "orders", "lowered": "seeds"}  # what varies ACC more


def stream_key(name: str) -> tuple:
    """Return the sort key of a stream: sharp tasks, blurry ones by their share, then iid."""
    kind, _, share = name.partition(" ")
    return ([TASKS, "blurry", "iid"].index(kind), float(share or 0))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line per data set, backbone, scenario, cell and stream.

    acc, acc_low, acc_high: mean ACC over orders and seeds, with the interval over further ones; for lines of
    variant GAIN of SHARC minus plain, paired by order and seed. <part>, <part>_low, <part>_high: variances
    (PARTS), excess and share as in components.Components. varies_more: `orders`, `seeds` (with the residual),
    or `not told apart`. order_found: whether the order's variance is told apart from zero. over_tasks: ACC
    minus that on the stream of sharp tasks, paired by order and seed, with its interval.
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
            word = verdict(found.excess.low, found.excess.high)
            line |= {"varies_more": EXCESS.get(word, word), "order_found": found.order.low > 0}
            sharp = values.get((method, variant, TASKS))
            nothing = Estimate(math.nan, math.nan, math.nan)
            change = nothing if sharp is None or stream == TASKS else mean_interval(table - sharp)
            lines.append(line | _spread("over_tasks", change))
    return pd.DataFrame(lines)


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
            share = f"{line['share']:.2f} [{line['share_low']:.2f}, {line['share_high']:.2f}]"
            body.append([*items, Item(share, line["share"]), Item(line["varies_more"])])
    first = lines.iloc[0]
    caption = (
        f"{first.orders} class orders with {first.seeds} seeds each. ACC in percent (gains in percentage "
        "points) with the 95 % interval over further orders and seeds. Standard deviations in percentage "
        "points, from a model with two crossed random effects: order, seed, and residual, their interaction; "
        "with 95 % generalised confidence intervals. Share of orders: of the order's variance in the sum of "
        "the three. Varies more: orders with one seed, or seeds (with the residual) on one order. Not "
        "corrected for the number of comparisons."
    )
    title = f"{scenario_name(place[2])}, {place[0]}, {place[1]}"
    return Table(title, caption, groups, header, body, breaks)


def _item(line: dict, name: str, signed: bool = False) -> Item:
    if math.isnan(line[name]):
        return Item("")
    is_signed = signed or line["variant"] == GAIN
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
    }
    parts = []
    for kind, text in words.items():
        named = [_deviations(line) for line in lines if line["varies_more"] == kind]
        parts += [text.format(", ".join(named))] if named else []
    return "; ".join(parts)


def _deviations(line: dict) -> str:
    seed = math.sqrt(max(0.0, line["seed"]) + line["residual"])
    found = "" if line["order_found"] else ", not told apart from zero"
    over_orders = f"deviation {deviation_text(line, 'order')} over orders{found}"
    return f"{line['label']} ({over_orders}, {seed:.2f} over seeds)"


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
