"""SHARC against plain: seed by seed, and at no more bytes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from sharc_core.common.formats import DASH, bytes_text, natural_key, number_text
from sharc_core.grid.protocol import concerning
from sharc_core.learning.metrics import PairedTest, paired_test
from sharc_core.results.summary import (
    SETTINGS,
    Entry,
    block_title,
    blocks,
    buffer_item,
    model_label,
    row_key,
    seeds_text,
    varying_settings,
)
from sharc_core.results.table_formats import Item, Table


@dataclass(frozen=True)
class Pair:
    """SHARC against the plain method of the same data set, backbone, scenario, buffer, protocol and seeds."""

    plain: Entry
    sharc: Entry
    test: PairedTest


def paired(entries: Sequence[Entry]) -> list[Pair]:
    """Every SHARC entry with its plain counterpart, where there is one with a common seed."""

    def key(entry: Entry) -> tuple:
        return (
            entry.scenario,
            entry.dataset,
            entry.backbone,
            entry.budget,
            entry.buffer,
            entry.method,
            # the plain run that the rules of SHARC's protocol lead to, as far as they concern it
            concerning(entry.protocol, entry.method, "plain") if entry.is_sharc else entry.protocol,
        )

    plain = {key(entry): entry for entry in entries if not entry.is_sharc}
    found = []
    for entry in entries:
        partner = plain.get(key(entry))
        if not entry.is_sharc or partner is None:
            continue
        ours, theirs = entry.acc_by_seed, partner.acc_by_seed
        common = [seed for seed in entry.seeds if seed in theirs]
        if common:
            test = paired_test([theirs[s] for s in common], [ours[s] for s in common])
            found.append(Pair(partner, entry, test))
    return found


@dataclass(frozen=True)
class EqualBytes:
    """A SHARC entry and the best plain entries that keep no more bytes, None where nothing fits.

    same: of the same method. other: of any method that was trained on the stream (SGD too, JOINT not).
    """

    sharc: Entry
    same: Entry | None
    other: Entry | None


def equal_bytes(entries: Sequence[Entry]) -> list[EqualBytes]:
    """For every SHARC entry the best plain ACC on the same data set, backbone and scenario at no more bytes.

    JOINT is left out: it needs all the data at once, which its bytes do not show.
    """
    found = []
    for entry in entries:
        if not entry.is_sharc:
            continue
        fitting = [
            plain
            for plain in entries
            if not plain.is_sharc
            and plain.method != "joint"
            and (plain.scenario, plain.dataset, plain.backbone)
            == (entry.scenario, entry.dataset, entry.backbone)
            and plain.total_bytes <= entry.total_bytes
        ]
        same = [plain for plain in fitting if plain.method == entry.method]

        found.append(EqualBytes(entry, _best(same), _best(fitting)))
    return found


def _best(candidates: list[Entry]) -> Entry | None:
    return max(candidates, key=lambda entry: entry.acc, default=None)


def pair_tables(entries: Sequence[Entry]) -> list[Table]:
    """SHARC against plain over the same seeds: difference of ACC, its interval, p-values and bytes."""
    found = []
    for block in blocks(entries):
        pairs = sorted(paired(block), key=lambda p: (natural_key(p.sharc.dataset), row_key(p.sharc)))
        if not pairs:
            continue
        varying = varying_settings(block)
        rows, breaks = [], []
        for index, pair in enumerate(pairs):
            if index and pair.sharc.dataset != pairs[index - 1].sharc.dataset:
                breaks.append(index)
            test = pair.test
            rows.append(
                [
                    Item(pair.sharc.dataset),
                    buffer_item(pair.sharc),
                    Item(model_label(pair.sharc, varying)),
                    Item(number_text(test.difference, signed=True), test.difference),
                    Item(interval_text(test.low, test.high), test.low),
                    Item(p_text(test.p_t), test.p_t),
                    Item(p_text(test.p_wilcoxon), test.p_wilcoxon),
                    Item(bytes_text(pair.plain.total_bytes), pair.plain.total_bytes),
                    Item(bytes_text(pair.sharc.total_bytes), pair.sharc.total_bytes),
                ]
            )
        header = ["Data set", "Buffer", "Model", "diff. of ACC", "95 % interval", "p (t)", "p (Wilcoxon)"]
        header += ["bytes plain", "bytes SHARC"]
        caption = (
            "ACC with SHARC less ACC without, seed by seed: mean difference, 95 % Student-t interval, "
            "two-sided p-values, not corrected for the number of comparisons. Over n seeds Wilcoxon's p "
            f"cannot fall below 2^(1-n). {seeds_text(block)}."
        )
        title = f"SHARC against plain. {block_title(block)}"
        found.append(Table(title, caption, [("", len(header))], header, rows, breaks, text_columns=3))
    return found


def tidy_pairs(entries: Sequence[Entry]) -> pd.DataFrame:
    """The paired comparisons at full precision; a header alone where the grid has no pair."""
    columns = ["scenario", "backbone", "budget", "dataset", "buffer", "method", *SETTINGS, "seeds"]
    columns += ["difference", "low", "high", "effect", "p_t", "p_wilcoxon", "plain_bytes", "sharc_bytes"]
    rows = []
    for block in blocks(entries):
        for pair in sorted(paired(block), key=lambda p: (natural_key(p.sharc.dataset), row_key(p.sharc))):
            row = {name: getattr(pair.sharc, name) for name in columns[: columns.index("seeds")]}
            row |= asdict(pair.test) | {"seeds": pair.test.n}
            row |= {"plain_bytes": pair.plain.total_bytes, "sharc_bytes": pair.sharc.total_bytes}
            rows.append(row)
    return pd.DataFrame(rows, columns=columns).astype({"buffer": "Int64"})


def interval_text(low: float, high: float) -> str:
    """`[+0.31, +1.20]`, or a dash for NaN."""
    signed = number_text(low, signed=True), number_text(high, signed=True)
    return DASH if DASH in signed else f"[{signed[0]}, {signed[1]}]"


def p_text(p: float) -> str:
    """A p-value to three decimals."""
    return DASH if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"
