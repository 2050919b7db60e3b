"""The scorecard: what the paper says of SHARC, counted in its tables and in ours, as sentences and tables."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from sharc_core.common.files import write_text
from sharc_core.common.formats import DASH, escape_markdown, number_text
from sharc_core.provenance.lineage import csv_text, lineage, markdown_text
from sharc_core.provenance.origin import UNKNOWN
from sharc_core.report.verdicts import verdicts
from sharc_core.results.claims import check_claims, claim_finding, claims_table
from sharc_core.results.comparisons import (
    LEVEL,
    Count,
    Setup,
    beaten,
    below_here,
    below_paper,
    count,
    only,
    overall,
    own_setting,
    place,
    setups,
    significant,
    verdict,
)
from sharc_core.results.display_names import method_name, scenario_key, scenario_name
from sharc_core.results.pairs import equal_bytes, interval_text, p_text
from sharc_core.results.published import (
    SEEDS,
    SETTING,
    SOURCE,
    PublishedPair,
    published_lookup,
    published_pairs,
)
from sharc_core.results.summary import SETTINGS, Entry, buffer_item, runs_of, summarise, unique
from sharc_core.results.table_formats import Finding, Item, Table, to_markdown

PAPER = "paper, all"
SAME = "paper, rows of this grid"


class Scorecard(NamedTuple):
    """sentences and tables open the report; pairs, a row for every pair, can be folded away."""

    sentences: list[Finding]
    tables: list[Table]
    pairs: list[Table]


def scorecard(entries: Sequence[Entry], published: pd.DataFrame) -> Scorecard:
    """The verdicts, the counts, the claims and the pairs. Without SHARC or SGD their rows are left out.

    entries: of all scenarios. published: published.load_published, or none.
    """
    lookup = published_lookup(published)
    theirs, ours = published_pairs(lookup), setups(entries)
    claims = check_claims([(s.label, p.plain, p.sharc) for s in ours for p in s.pairs], theirs)
    sentences = verdicts(ours, lookup)
    tables = [_counts_table(ours, lookup)]
    if any(setup.pairs for setup in ours):
        tables.append(_overall_table(ours))
    if theirs:
        sentences += [claim_finding(case) for case in claims]
        tables.append(claims_table(claims))
    return Scorecard(sentences, tables, [_pairs_table(s, theirs) for s in ours if s.pairs])


def write_scorecard(
    runs: pd.DataFrame, published: pd.DataFrame, folder: Path | str, config: str = UNKNOWN
) -> list[Path]:
    """Write scorecard.md, and scorecard.csv with a row for every pair at full precision; returns the paths.

    runs: results.runs_table. published: as for scorecard(). config: the grid's hash.
    """
    entries, origin = summarise(runs), lineage(runs_of(runs), config)
    card = scorecard(entries, published)
    lines = [f"- {escape_markdown(f'{text} {detail}'.strip())}" for text, detail in card.sentences]
    tables = "\n".join(to_markdown(table) for table in card.tables + card.pairs)
    paths = [Path(folder) / "scorecard.md", Path(folder) / "scorecard.csv"]
    write_text(paths[0], markdown_text("\n".join(["# Scorecard", "", *lines, "", tables]), origin))
    write_text(paths[1], csv_text(tidy_scorecard(entries, published), origin))
    return paths


def tidy_scorecard(entries: Sequence[Entry], published: pd.DataFrame) -> pd.DataFrame:
    """A row for every pair of every setup, then the paper's pairs that this grid does not have."""
    theirs, rows = published_pairs(published_lookup(published)), []
    columns = ["setup", "scenario", "dataset", "buffer", "method", "backbone", "budget", *SETTINGS, "seeds"]
    columns += [
        "plain_acc",
        "sharc_acc",
        "difference",
        "low",
        "high",
        "effect",
        "p_t",
        "p_holm",
        "p_wilcoxon",
    ]
    columns += ["verdict", "plain_bytes", "sharc_bytes", "plain_acc_at_no_more_bytes"]
    columns += [f"paper_{name}" for name in PublishedPair._fields]
    absent = dict(theirs)
    for setup in setups(entries):
        fitting = {id(case.sharc): case.other for case in equal_bytes(setup.entries)}
        for pair, p_holm in zip(setup.pairs, setup.p_holm, strict=True):
            row = {name: getattr(pair.sharc, name) for name in columns[1 : columns.index("seeds")]}
            row |= asdict(pair.test) | {"setup": setup.label, "seeds": pair.test.n, "p_holm": p_holm}
            row |= {"plain_acc": pair.plain.acc, "sharc_acc": pair.sharc.acc}
            row |= {"plain_bytes": pair.plain.total_bytes, "sharc_bytes": pair.sharc.total_bytes}
            row["verdict"] = verdict(pair.test.low, pair.test.high)
            best = fitting[id(pair.sharc)]
            row["plain_acc_at_no_more_bytes"] = best.acc if best else None
            rows.append(row | _paper_columns(theirs.get(place(pair.sharc))))
            absent.pop(place(pair.sharc), None)
    for (scenario, dataset, buffer, method), paper in absent.items():
        row = {"scenario": scenario, "dataset": dataset, "buffer": buffer, "method": method}
        rows.append(row | _paper_columns(paper))
    return pd.DataFrame(rows, columns=columns).astype({"buffer": "Int64", "seeds": "Int64"})


def _paper_columns(paper: PublishedPair | None) -> dict[str, float]:
    return {f"paper_{name}": value for name, value in paper._asdict().items()} if paper else {}


def _counts_table(ours: Sequence[Setup], lookup: dict) -> Table:
    """Every count in the paper, in the paper's pairs that are here, and here."""
    theirs = published_pairs(lookup)
    present = {place(p.sharc) for s in ours for p in s.pairs} & set(theirs)
    header = ["Scenario", "Count", *([PAPER, SAME] if theirs else []), *(s.label or "here" for s in ours)]
    rows, breaks = [], []

    def add(name: str, counts: Sequence[Count]) -> None:
        if any(c.of for c in counts[-len(ours) :]):  # what the grid cannot answer has no row
            items = [Item(str(c), c.count / c.of if c.of else None) for c in counts]
            rows.append([Item(scenario_name(scenario)), Item(name), *items])

    for scenario in unique((e.scenario for s in ours for e in s.entries), scenario_key):
        if rows:
            breaks.append(len(rows))
        papers = []
        if theirs:
            papers = [[theirs[k] for k in keys if k[0] == scenario] for keys in (theirs, present)]
        tests = [[p.test for p in s.pairs if p.sharc.scenario == scenario] for s in ours]
        for name, wanted in (
            ("mean ACC raised by SHARC", lambda t: t.difference > 0),
            ("95 % interval above zero", lambda t: t.low > 0),
            ("95 % interval holds zero", lambda t: t.low <= 0 <= t.high),
            ("95 % interval below zero", lambda t: t.high < 0),
        ):
            told = [
                [t for t in values if "interval" not in name or t.low == t.low] for values in papers + tests
            ]
            add(name, [count(values, wanted) for values in told])
        for sign, word in ((1, "raised"), (-1, "lowered")):
            counts = [significant(only(s, scenario), sign) for s in ours]
            name = f"{word}, p (t) after Holm below {LEVEL}"
            add(name, [Count(0, 0)] * len(papers) + counts)
        if scenario == "task_il":
            for variant, words in (("plain", "plain"), ("sharc", "SHARC")):
                among = {place(e) for s in ours for e in s.entries if e.variant == variant}
                paper = [below_paper(lookup, variant, chosen) for chosen in (None, among)] if theirs else []
                found = paper + [below_here(s, variant) for s in ours]
                add(f"{words} rows below SGD", [f.rows for f in found])
                add(f"{words} methods below SGD, mean of their rows", [f.methods for f in found])
        counts = [beaten(only(s, scenario)) for s in ours]
        add("SHARC rows below a plain one of no more bytes", [Count(0, 0)] * len(papers) + counts)
    caption = (
        "A pair is SHARC against the plain method on one data set, at one buffer, in one scenario. Here: "
        "differences over the same seeds, 95 % Student-t interval. "
    )
    if theirs:
        caption += (
            f"Paper ({SOURCE}: {SETTING}): Welch's interval from the published means and deviations of "
            f"{SEEDS} runs; p-values and bytes were not published. "
        )
    caption += own_setting(ours)
    return Table("Counts", caption, [("", len(header))], header, rows, breaks, text_columns=2)


def _overall_table(ours: Sequence[Setup]) -> Table:
    several = len(ours) > 1
    header = ["Scenario", *(["Setup"] if several else []), "mean difference", "95 % interval", "p (t, seeds)"]
    header += ["seeds", "raised", "p (Wilcoxon, units)", "units"]
    rows = []
    for setup in ours:
        for found in overall(setup.pairs):
            seeds, units = found.over_seeds, found.over_units
            rows.append(
                [
                    Item(scenario_name(found.scenario)),
                    *([Item(setup.label)] if several else []),
                    Item(number_text(seeds.difference, signed=True), seeds.difference),
                    Item(interval_text(seeds.low, seeds.high), seeds.low),
                    Item(p_text(seeds.p_t), seeds.p_t),
                    Item(str(seeds.n), seeds.n),
                    Item(str(count(found.units, lambda unit: unit > 0))),
                    Item(p_text(units.p_wilcoxon), units.p_wilcoxon),
                    Item(str(units.n), units.n),
                ]
            )
    caption = (
        "Over n seeds Wilcoxon's p cannot fall below 2^(1-n), 0.0625 for five, so no single pair of five "
        "seeds is significant by it; here it is asked of all pairs of a scenario. A unit is a method on a "
        "data set, its mean difference over the buffers; methods with identical results (MER with the "
        "published settings is ER) count once. Two-sided signed-rank test, which needs 6 units to reach "
        "0.05; units of one data set share its images and seeds, so its p is rather too small. The interval "
        "is of the units' mean, seed by seed: how far chance in training moves it for these data sets and "
        "methods. "
        f"{own_setting(ours)}"
    )
    title, words = "Does SHARC help on the whole?", 2 if several else 1
    return Table(title, caption, [("", len(header))], header, rows, text_columns=words)


def _pairs_table(setup: Setup, theirs: dict[tuple, PublishedPair]) -> Table:
    present = any(place(pair.sharc) in theirs for pair in setup.pairs)
    header = ["Scenario", "Data set", "Buffer", "Method", "plain", "SHARC", "diff.", "95 % interval"]
    header += ["g", "p (t)", "p (Holm)", "p (Wilcoxon)", "verdict"]
    groups = [("", 4), ("here", 9)]
    if present:
        header += ["plain", "SHARC", "diff.", "95 % interval"]
        groups.append(("paper", 4))
    rows, breaks = [], []
    for index, (pair, p_holm) in enumerate(zip(setup.pairs, setup.p_holm, strict=True)):
        test, entry = pair.test, pair.sharc
        if index and place(entry)[:2] != place(setup.pairs[index - 1].sharc)[:2]:
            breaks.append(index)
        row = [Item(scenario_name(entry.scenario)), Item(entry.dataset), buffer_item(entry)]
        row += [Item(method_name(entry.method)), _number(pair.plain.acc), _number(entry.acc)]
        row += [_signed(test.difference), Item(interval_text(test.low, test.high), test.low)]
        row += [_signed(test.effect), Item(p_text(test.p_t), test.p_t), Item(p_text(p_holm), p_holm)]
        row += [Item(p_text(test.p_wilcoxon), test.p_wilcoxon), Item(verdict(test.low, test.high))]
        paper = theirs.get(place(entry))
        if paper:
            row += [_number(paper.plain), _number(paper.sharc), _signed(paper.difference)]
            row.append(Item(interval_text(paper.low, paper.high), paper.low))
        elif present:
            row += [Item(DASH)] * 4
        rows.append(row)
    caption = (
        "g: Cohen's d_z of the differences (mean over sample deviation), with Hedges' correction for few "
        "seeds. "
        f"p (Holm): the t test's, corrected for these {len(rows)} pairs. verdict: where the 95 % "
        "interval lies. "
    )
    if present:
        caption += f"paper: {SOURCE} ({SETTING}), Welch's interval of {SEEDS} and {SEEDS} runs. "
    title = "Every pair" + (f": {setup.label}" if setup.label else "")
    return Table(title, caption + own_setting([setup]), groups, header, rows, breaks, text_columns=4)


def _number(value: float) -> Item:
    return Item(number_text(value), value)


def _signed(value: float) -> Item:
    return Item(number_text(value, signed=True), value)
