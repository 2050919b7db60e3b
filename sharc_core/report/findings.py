"""Findings: the report's sentences about SHARC, each computed from the results with the numbers behind it."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import pandas as pd

from sharc_core.common.formats import DASH, bytes_text, natural_key, number_text
from sharc_core.results.claims import Checked
from sharc_core.results.comparisons import (
    LEVEL,
    Overall,
    Pair,
    Setup,
    below_paper,
    count,
    matched,
    overall,
    paired,
    published_key,
    setting_here,
    significant,
    verdict,
)
from sharc_core.results.display_names import scenario_key, scenario_name
from sharc_core.results.published import (
    SETTING,
    SOURCE,
    PublishedPair,
    published_for,
    published_lookup,
    published_pairs,
)
from sharc_core.results.statistics import PairedTest
from sharc_core.results.summary import Entry, model_label, place_name, row_name, unique, varying_settings
from sharc_core.results.table_formats import interval_text, p_text

CLAIMS_GRID = "config/paper.yaml"  # a grid with all of the paper's data sets, methods and buffers


class Finding(NamedTuple):
    """One sentence. detail: further sentences of the same paragraph, possibly empty."""

    text: str
    detail: str = ""


# --- the scorecard -------------------------------------------------------------------------------------


def scorecard_findings(
    entries: Sequence[Entry], ours: Sequence[Setup], lookup: dict, claims: Sequence[Checked]
) -> list[Finding]:
    """Return the findings over all scenarios, without those that the grid cannot answer (no SHARC, no SGD).

    ours: setups of the entries. lookup: published_lookup. claims: check_claims of the setups' pairs.
    """
    paper = published_pairs(lookup)
    findings = [
        _effect_in_paper(ours, paper),
        *(_effect_of_setup(setup) for setup in ours if setup.pairs),
        _below_sgd(entries, lookup),
        *map(_equal_bytes, ours),
    ]
    if paper:
        findings += [claim_finding(claim) for claim in claims if claim.sharc]
        findings.append(_further_claims(claims))
    return [finding for finding in findings if finding is not None]


def _effect_in_paper(ours: Sequence[Setup], paper: dict[tuple, PublishedPair]) -> Finding | None:
    """State how often SHARC raises ACC in the paper; None where no pair of the paper is in the grid."""
    keys = {published_key(pair.sharc) for setup in ours for pair in setup.pairs} & set(paper)
    if not keys:
        return None
    raised = count(list(paper.values()), lambda p: p.difference > 0)
    raised_of_ours = count([paper[key] for key in keys], lambda p: p.difference > 0)
    text = (
        f"In the paper SHARC raises the mean ACC in {raised} pairs of a plain and a SHARC run. "
        f"{len(keys)} of the {len(paper)} are in this grid; the paper raises {raised_of_ours} of these."
    )
    return Finding(text, f"The paper's backbone: {SETTING}. {setting_here(ours)}")


def _effect_of_setup(setup: Setup) -> Finding:
    """State whether SHARC helps: in how many pairs, and over all pairs of a scenario."""
    tests = [pair.test for pair in setup.pairs]
    raised = count(tests, lambda t: t.difference > 0)
    label = f" ({setup.label})" if setup.label else ""
    details = [_intervals(tests), _corrected(setup), *map(_overall, overall(setup.pairs))]
    return Finding(
        f"Here SHARC raises the mean ACC in {raised} pairs{label}.", " ".join(filter(None, details))
    )


def _intervals(tests: Sequence[PairedTest]) -> str:
    verdicts = [verdict(t.low, t.high) for t in tests]
    if DASH in verdicts:
        return "One seed gives no interval: run more seeds to tell an effect from chance."
    return (
        f"The 95 % interval over the seeds is above zero in {verdicts.count('raised')}, contains zero in "
        f"{verdicts.count('not told apart')} and is below zero in {verdicts.count('lowered')}."
    )


def _corrected(setup: Setup) -> str:
    if all(p != p for p in setup.p_holm):
        return ""
    up, down = significant(setup, 1), significant(setup, -1)
    return (
        f"With Holm's correction for {len(setup.pairs)} t tests, p is below {LEVEL} for {up.count} raised "
        f"and {down.count} lowered pairs."
    )


def _overall(effect: Overall) -> str:
    seeds, units = effect.over_seeds, effect.over_units
    text = f"{scenario_name(effect.scenario)}, all pairs: {number_text(seeds.difference, signed=True)} points"
    if seeds.low == seeds.low:
        text += f", 95 % interval over the seeds {interval_text(seeds.low, seeds.high)}"
    if units.p_wilcoxon == units.p_wilcoxon:
        text += f"; Wilcoxon's p over {units.n} methods and data sets is {p_text(units.p_wilcoxon)}"
    return f"{text}."


def _below_sgd(entries: Sequence[Entry], lookup: dict) -> Finding | None:
    """State how many replay rows of each scenario have a lower ACC than SGD, and which; None without SGD."""
    parts, details = [], []
    for scenario in unique((e.scenario for e in entries), scenario_key):
        sgd = {_place(e): e.acc for e in entries if e.scenario == scenario and e.method == "sgd"}
        replay = [e for e in entries if e.scenario == scenario and e.buffer is not None and _place(e) in sgd]
        counts, in_paper = [], []
        for variant, word in (("plain", "plain"), ("sharc", "SHARC")):
            rows = [e for e in replay if e.variant == variant]
            below = [e for e in rows if e.acc < sgd[_place(e)]]
            if rows:
                counts.append(f"{len(below)} of {len(rows)} {word} rows")
                in_paper.append(below_paper(lookup, variant, scenario=scenario).rows)
            if below:
                details.append(f"{scenario_name(scenario)}, {word}: {_rows_by_model(below, rows)}.")
        if counts:
            part = f"{' and '.join(counts)} in {scenario_name(scenario)}"
            if all(paper.of for paper in in_paper):
                part += f" (in the paper: {' and '.join(map(str, in_paper))})"
            parts.append(part)
    if not parts:
        return None
    text = f"SGD, which replays nothing, has a higher ACC than {', and than '.join(parts)}."
    return Finding(text, " ".join(["Rows below SGD.", *details]) if details else "")


def _equal_bytes(setup: Setup) -> Finding | None:
    """State how often a plain row matches SHARC at equal bytes; None where no plain row keeps so few."""
    any_method, same_method = matched(setup.entries), matched(setup.entries, same_method=True)
    if not any_method.of:
        return None
    label = f" ({setup.label})" if setup.label else ""
    text = (
        f"At equal bytes{label}, a plain row of any method (also SGD) matches SHARC in {any_method} rows: it "
        "keeps no more bytes and has at least the same ACC."
    )
    if same_method.of:
        text += f" A plain row of the same method does so in {same_method}."
    detail = (
        "Bytes are all that the learner keeps: episodic memory, associative memory, head and model copies. "
        f"{SOURCE} does not count the associative memory. JOINT is excluded."
    )
    return Finding(text, detail)


def claim_finding(claim: Checked) -> Finding:
    """Compare a gain that the paper claims with its own tables and with the grid's runs."""
    name = f"Claim “{claim.claim.text}”"
    if len(claim.claim.buffers) > 1:
        name += f", buffer {claim.buffer}"
    in_paper = "the published table is missing"
    if claim.paper:
        in_paper = (
            f"this is a relative gain: the published ACC, {number_text(claim.paper.plain)} to "
            f"{number_text(claim.paper.sharc)}, give {number_text(claim.published_gain, signed=True)} % "
            f"({number_text(claim.paper.difference, signed=True)} points)"
        )
    interval = "no interval (one seed)"
    if claim.low == claim.low:
        inside = claim.low <= claim.published_gain <= claim.high
        low, high = number_text(claim.low, signed=True), number_text(claim.high, signed=True)
        interval = f"95 % interval {low} to {high} %"
        interval += f"; the published gain lies {'in' if inside else 'out'}side it" if claim.paper else ""
    assert claim.plain is not None and claim.sharc is not None
    label = f", {claim.label}" if claim.label else ""
    text = (
        f"{name}: here {number_text(claim.gain, signed=True)} % "
        f"({number_text(claim.plain.acc)} to {number_text(claim.sharc.acc)}, {interval}){label}."
    )
    return Finding(text, f"In the paper {in_paper}, with {SETTING}. Here: backbone {claim.sharc.backbone}.")


def _further_claims(claims: Sequence[Checked]) -> Finding | None:
    """Name the claims that the grid cannot answer, in one line; None where it answers all."""
    answered = {claim.claim for claim in claims if claim.sharc}
    others = list(dict.fromkeys(claim.claim.text for claim in claims if claim.claim not in answered))
    if not others:
        return None
    verb = "needs" if len(others) == 1 else "need"
    return Finding(
        f"{len(others)} of the paper's claims {verb} another grid ({CLAIMS_GRID}): {'; '.join(others)}."
    )


# --- one scenario --------------------------------------------------------------------------------------


def scenario_findings(entries: Sequence[Entry], published: pd.DataFrame) -> list[Finding]:
    """Return the findings of one scenario, without those that the grid cannot answer (no SHARC).

    published: published.load_published, or no_published.
    """
    pairs = paired(entries)
    findings = [
        _effect(pairs),
        _bytes_ratio(pairs),
        *_best_per_dataset(entries),
        _agreement(pairs, published),
    ]
    return [finding for finding in findings if finding is not None]


def _effect(pairs: Sequence[Pair]) -> Finding | None:
    if not pairs:
        return None
    tests = [pair.test for pair in pairs]
    raised = count(tests, lambda t: t.difference > 0)
    typical = number_text(median(test.difference for test in tests), signed=True)
    detail = f"{_intervals(tests)} The median difference is {typical} percentage points."
    lowered = [pair.sharc for pair in pairs if pair.test.difference < 0]
    if lowered:
        detail += f" Lowered: {_rows_by_model(lowered, [pair.sharc for pair in pairs])}."
    return Finding(f"SHARC raises the mean ACC in {raised} pairs.", detail)


def _bytes_ratio(pairs: Sequence[Pair]) -> Finding | None:
    ratios = [pair.sharc.total_bytes / pair.plain.total_bytes for pair in pairs if pair.plain.total_bytes]
    if not ratios:
        return None
    low, middle, high = (f"{value:.2f}" for value in (min(ratios), median(ratios), max(ratios)))
    text = f"At the same buffer SHARC keeps {middle} times the bytes of the plain method (median)."
    return Finding(text, "" if low == high else f"The ratio lies between {low} and {high}.")


def _best_per_dataset(entries: Sequence[Entry]) -> list[Finding]:
    findings = []
    for place in unique((_place(e) for e in entries), lambda p: tuple(natural_key(part) for part in p)):
        rows = [e for e in entries if _place(e) == place and not e.is_joint]
        if not rows:
            continue
        best = max(rows, key=lambda e: e.acc)
        joint = [e for e in entries if _place(e) == place and e.is_joint]
        text = (
            f"{place_name(best, entries)}: the best ACC is {number_text(best.acc)} % "
            f"({row_name(best, entries)}, {bytes_text(best.total_bytes)})."
        )
        detail = (
            f"JOINT, trained on all tasks at once, reaches {number_text(joint[0].acc)} %." if joint else ""
        )
        findings.append(Finding(text, detail))
    return findings


def _agreement(pairs: Sequence[Pair], published: pd.DataFrame) -> Finding | None:
    """State whether SHARC helps where the paper reports that it does."""
    lookup = published_lookup(published)
    cases = [
        (pair, sharc["acc_mean"] - plain["acc_mean"])
        for pair in pairs
        if (sharc := published_for(pair.sharc, lookup)) and (plain := published_for(pair.plain, lookup))
    ]
    if not cases:
        return None
    opposed = [pair.sharc for pair, gain in cases if (pair.test.difference > 0) != (gain > 0)]
    text = (
        f"SHARC's effect has the paper's sign in {len(cases) - len(opposed)} of the {len(cases)} pairs that "
        "the paper reports too."
    )
    here = number_text(median(pair.test.difference for pair, _ in cases), signed=True)
    in_paper = number_text(median(gain for _, gain in cases), signed=True)
    detail = f"Median difference of ACC: {here} here, {in_paper} in the paper."
    if opposed:
        detail += f" Opposite sign: {_rows_by_model(opposed, [pair.sharc for pair, _ in cases])}."
    return Finding(text, detail)


def _place(entry: Entry) -> tuple[str, str]:
    return entry.dataset, entry.backbone


def _rows_by_model(entries: Sequence[Entry], among: Sequence[Entry]) -> str:
    """Return `ER (s_digits 200, 500; s_glyphs 200), GEM+ (...)`: models, data sets and buffers.

    among: all rows that the entries were chosen from; they decide which settings a label needs.
    """
    varying = varying_settings(among)
    models: dict[str, dict[str, list[str]]] = {}
    for entry in entries:
        buffers = models.setdefault(model_label(entry, varying), {}).setdefault(entry.dataset, [])
        if str(entry.buffer) not in buffers:
            buffers.append(str(entry.buffer))
    return ", ".join(
        f"{model} (" + "; ".join(f"{name} {', '.join(buffers)}" for name, buffers in datasets.items()) + ")"
        for model, datasets in models.items()
    )
