"""The scorecard: what the paper claims about SHARC, counted in its tables and in the grid's results."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from sharc_core.common.formats import DASH, number_text
from sharc_core.report.findings import Finding, scorecard_findings
from sharc_core.results.claims import Checked, check_claims
from sharc_core.results.comparisons import (
    LEVEL,
    Count,
    Setup,
    below_here,
    below_paper,
    count,
    in_scenario,
    matched,
    overall,
    published_key,
    setting_here,
    setups,
    significant,
    verdict,
)
from sharc_core.results.display_names import method_name, scenario_key, scenario_name
from sharc_core.results.published import (
    SEEDS,
    SETTING,
    SOURCE,
    PublishedPair,
    published_lookup,
    published_pairs,
)
from sharc_core.results.summary import Entry, buffer_item, unique
from sharc_core.results.table_formats import Item, Table, interval_text, p_text

PAPER = "paper, all"
SAME = "paper, rows of this grid"


class Scorecard(NamedTuple):
    """The scorecard's parts. counts: the first table. pairs: tables with a row for every pair, per setup."""

    findings: list[Finding]
    counts: Table
    tables: list[Table]
    pairs: list[Table]


def scorecard(entries: Sequence[Entry], published: pd.DataFrame) -> Scorecard:
    """Build the scorecard from the entries of all scenarios; without SHARC or SGD their rows are omitted.

    published: published.load_published, or no_published.
    """
    lookup = published_lookup(published)
    paper, ours = published_pairs(lookup), setups(entries)
    pairs = [(setup.label, pair.plain, pair.sharc) for setup in ours for pair in setup.pairs]
    claims = check_claims(pairs, paper) if paper else []
    tables = [_overall_table(ours)] if any(setup.pairs for setup in ours) else []
    if any(claim.sharc for claim in claims):
        tables.append(claims_table(claims))
    return Scorecard(
        scorecard_findings(entries, ours, lookup, claims),
        _counts_table(ours, lookup),
        tables,
        [_pairs_table(setup, paper) for setup in ours if setup.pairs],
    )


def _counts_table(ours: Sequence[Setup], lookup: dict) -> Table:
    """Return every count for all pairs of the paper, for those that the grid has too, and for each setup."""
    paper = published_pairs(lookup)
    in_grid = {published_key(p.sharc) for s in ours for p in s.pairs} & set(paper)
    header = ["Scenario", "Count", *([PAPER, SAME] if paper else []), *(s.label or "here" for s in ours)]
    rows, breaks = [], []

    def add(name: str, counts: Sequence[Count]) -> None:
        if any(c.of for c in counts[-len(ours) :]):  # omit what the grid cannot answer
            items = [Item(str(c), c.count / c.of if c.of else None) for c in counts]
            rows.append([Item(scenario_name(scenario)), Item(name), *items])

    for scenario in unique((e.scenario for s in ours for e in s.entries), scenario_key):
        if rows:
            breaks.append(len(rows))
        samples: list[list] = []  # per column, differences with their intervals
        if paper:
            samples += [[paper[k] for k in keys if k[0] == scenario] for keys in (paper, in_grid)]
        unpublished = [Count(0, 0)] * len(samples)
        samples += [[p.test for p in s.pairs if p.sharc.scenario == scenario] for s in ours]
        add("mean ACC raised by SHARC", [count(values, lambda t: t.difference > 0) for values in samples])
        with_interval = [[t for t in values if t.low == t.low] for values in samples]
        for name, wanted in (
            ("95 % interval above zero", lambda t: t.low > 0),
            ("95 % interval holds zero", lambda t: t.low <= 0 <= t.high),
            ("95 % interval below zero", lambda t: t.high < 0),
        ):
            add(name, [count(values, wanted) for values in with_interval])
        parts = [in_scenario(s, scenario) for s in ours]
        for sign, word in ((1, "raised"), (-1, "lowered")):
            name = f"{word}, p (t) after Holm below {LEVEL}"
            add(name, unpublished + [significant(part, sign) for part in parts])
        if scenario == "task_il":
            for variant, word in (("plain", "plain"), ("sharc", "SHARC")):
                among = {published_key(e) for s in ours for e in s.entries if e.variant == variant}
                below = [below_paper(lookup, variant, keys) for keys in (None, among)] if paper else []
                below += [below_here(s, variant) for s in ours]
                add(f"{word} rows below SGD", [b.rows for b in below])
                add(f"{word} methods below SGD, mean of their rows", [b.methods for b in below])
        name = "SHARC rows matched by a plain one of no more bytes"
        add(name, unpublished + [matched(part.entries) for part in parts])
    caption = (
        "A pair is SHARC and the plain method on one data set, at one buffer, in one scenario. Here: "
        "differences over the same seeds, 95 % Student-t interval. A plain row matches SHARC if its mean ACC "
        "is at least as high. "
    )
    if paper:
        caption += (
            f"Paper ({SOURCE}: {SETTING}): Welch's interval from the published means and deviations of "
            f"{SEEDS} runs; p-values and bytes were not published. "
        )
    caption += setting_here(ours)
    return Table("Counts", caption, [("", len(header))], header, rows, breaks, text_columns=2)


def _overall_table(ours: Sequence[Setup]) -> Table:
    several = len(ours) > 1
    header = ["Scenario", *(["Setup"] if several else []), "mean difference", "95 % interval", "p (t, seeds)"]
    header += ["seeds", "raised", "p (Wilcoxon, units)", "units"]
    rows = []
    for setup in ours:
        for effect in overall(setup.pairs):
            seeds, units = effect.over_seeds, effect.over_units
            rows.append(
                [
                    Item(scenario_name(effect.scenario)),
                    *([Item(setup.label)] if several else []),
                    Item(number_text(seeds.difference, signed=True), seeds.difference),
                    Item(interval_text(seeds.low, seeds.high), seeds.low),
                    Item(p_text(seeds.p_t), seeds.p_t),
                    Item(str(seeds.n), seeds.n),
                    Item(str(count(effect.units, lambda unit: unit > 0))),
                    Item(p_text(units.p_wilcoxon), units.p_wilcoxon),
                    Item(str(units.n), units.n),
                ]
            )
    caption = (
        "A unit is a method on a data set: its mean difference over the buffers. Methods with identical "
        "results (MER with the published settings is ER) count once. mean difference, 95 % interval, p (t, "
        "seeds): the mean over the units, seed by seed, which shows how far chance in training moves it for "
        "these methods and data sets. p (Wilcoxon, units): two-sided signed-rank test of the units. It needs "
        "6 units to reach 0.05, and is somewhat too small, because units of one data set share images and "
        "seeds. For a single pair Wilcoxon's p over n seeds cannot fall below 2^(1-n), which is 0.0625 for "
        f"five seeds. {setting_here(ours)}"
    )
    title, text_columns = "Does SHARC help over all pairs?", 2 if several else 1
    return Table(title, caption, [("", len(header))], header, rows, text_columns=text_columns)


def claims_table(claims: Sequence[Checked]) -> Table:
    """Return the relative gains that the paper claims and those of the grid, for the claims it answers."""
    answered = [claim for claim in claims if claim.sharc]
    several = any(claim.label for claim in answered)
    header = ["Buffer", *(["Setup"] if several else []), "Claim", "ACC", "relative gain"]
    header += ["ACC", "relative gain", "95 % interval", "points"]
    rows = []
    for claim in answered:
        assert claim.plain is not None and claim.sharc is not None
        points, interval = claim.sharc.acc - claim.plain.acc, DASH
        if claim.low == claim.low:
            interval = f"[{number_text(claim.low, signed=True)}, {number_text(claim.high, signed=True)}] %"
        rows.append(
            [
                Item(str(claim.buffer), claim.buffer),
                *([Item(claim.label)] if several else []),
                Item(claim.claim.text),
                _from_to(claim.paper.plain, claim.paper.sharc) if claim.paper else Item(DASH),
                _percent(claim.published_gain),
                _from_to(claim.plain.acc, claim.sharc.acc),
                _percent(claim.gain),
                Item(interval, claim.low),
                _signed(points),
            ]
        )
    caption = (
        "Relative gain: ACC with SHARC divided by ACC without, minus 1. Published: recomputed from the "
        f"tables of {SOURCE} ({SETTING}). Here: ratio of the means over the same seeds, with Fieller's 95 % "
        "interval; backbone and protocol differ from the paper's. points: the difference of ACC. The claim "
        f"for {method_name('derpp')} names no buffer."
    )
    groups = [("", 3 if several else 2), ("published", 2), ("here", 4)]
    return Table(
        "The paper's claims by name", caption, groups, header, rows, text_columns=3 if several else 2
    )


def _pairs_table(setup: Setup, paper: dict[tuple, PublishedPair]) -> Table:
    in_paper = any(published_key(pair.sharc) in paper for pair in setup.pairs)
    header = ["Scenario", "Data set", "Buffer", "Method", "plain", "SHARC", "diff.", "95 % interval"]
    header += ["g", "p (t)", "p (Holm)", "p (Wilcoxon)", "verdict"]
    groups = [("", 4), ("here", 9)]
    if in_paper:
        header += ["plain", "SHARC", "diff.", "95 % interval"]
        groups.append(("paper", 4))
    rows, breaks = [], []
    for index, (pair, p_holm) in enumerate(zip(setup.pairs, setup.p_holm, strict=True)):
        test, entry = pair.test, pair.sharc
        if index and published_key(entry)[:2] != published_key(setup.pairs[index - 1].sharc)[:2]:
            breaks.append(index)
        row = [Item(scenario_name(entry.scenario)), Item(entry.dataset), buffer_item(entry)]
        row += [Item(method_name(entry.method)), _number(pair.plain.acc), _number(entry.acc)]
        row += [_signed(test.difference), Item(interval_text(test.low, test.high), test.low)]
        row += [_signed(test.effect), Item(p_text(test.p_t), test.p_t), Item(p_text(p_holm), p_holm)]
        row += [Item(p_text(test.p_wilcoxon), test.p_wilcoxon), Item(verdict(test.low, test.high))]
        published = paper.get(published_key(entry))
        if published:
            row += [_number(published.plain), _number(published.sharc), _signed(published.difference)]
            row.append(Item(interval_text(published.low, published.high), published.low))
        elif in_paper:
            row += [Item(DASH)] * 4
        rows.append(row)
    caption = (
        "g: Cohen's d_z of the differences (mean over sample deviation), with Hedges' correction for few "
        f"seeds. p (Holm): p (t) corrected for these {len(rows)} pairs. verdict: whether the 95 % interval "
        "is above zero (raised), below zero (lowered) or contains it (not told apart). "
    )
    if in_paper:
        caption += f"paper: {SOURCE} ({SETTING}), Welch's interval for {SEEDS} and {SEEDS} runs. "
    title = "Every pair" + (f": {setup.label}" if setup.label else "")
    return Table(title, caption + setting_here([setup]), groups, header, rows, breaks, text_columns=4)


def _number(value: float) -> Item:
    return Item(number_text(value), value)


def _signed(value: float) -> Item:
    return Item(number_text(value, signed=True), value)


def _from_to(before: float, after: float) -> Item:
    return Item(f"{number_text(before)} to {number_text(after)}", after)


def _percent(value: float) -> Item:
    return Item(DASH if value != value else f"{number_text(value, signed=True)} %", value)
