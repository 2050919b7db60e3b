"""The scorecard's sentences: every verdict with the number that it comes from."""

from collections.abc import Sequence

from sharc_core.common.formats import DASH, number_text
from sharc_core.learning.metrics import PairedTest
from sharc_core.results.comparisons import (
    LEVEL,
    Overall,
    Setup,
    beaten,
    below_here,
    below_paper,
    count,
    overall,
    own_setting,
    place,
    significant,
    verdict,
)
from sharc_core.results.display_names import scenario_name
from sharc_core.results.pairs import interval_text, p_text
from sharc_core.results.published import SETTING, SOURCE, PublishedPair, published_pairs
from sharc_core.results.table_formats import Finding


def verdicts(ours: Sequence[Setup], lookup: dict) -> list[Finding]:
    """Does SHARC help in the paper and here, does replay beat SGD, and what remains at equal bytes.

    lookup: published_lookup. What the grid cannot answer (no SHARC, no SGD) is left out.
    """
    theirs = published_pairs(lookup)
    found = [_paper(ours, theirs)] if theirs else []
    found += [_effect(setup) for setup in ours if setup.pairs]
    return [*found, *_below_sgd(ours, lookup), *_equal_bytes(ours)]


def _paper(ours: Sequence[Setup], theirs: dict[tuple, PublishedPair]) -> Finding:
    """How often SHARC raises ACC in the paper, and how much of that can be compared."""
    raised = count(list(theirs.values()), lambda p: p.difference > 0)
    here = {place(pair.sharc) for setup in ours for pair in setup.pairs} & set(theirs)
    text = (
        f"In the paper SHARC raises the mean ACC in {raised} pairs of method, data set, buffer and scenario"
    )
    if not here:
        return Finding(f"{text}; none of them is in this grid.")
    same = count([theirs[key] for key in here], lambda p: p.difference > 0)
    text += f"; {len(here)} of the {len(theirs)} are in this grid, raised there in {same}."
    return Finding(text, f"Its backbone: {SETTING}. {own_setting(ours)}")


def _effect(setup: Setup) -> Finding:
    """Does SHARC help here: pair by pair, and on the whole."""
    tests = [pair.test for pair in setup.pairs]
    raised = count(tests, lambda t: t.difference > 0)
    text = f"Here SHARC raises the mean ACC in {raised} pairs" + (
        f" ({setup.label})." if setup.label else "."
    )
    words = [_intervals(tests), _corrected(setup), *map(_whole, overall(setup.pairs))]
    return Finding(text, " ".join(filter(None, words)))


def _intervals(tests: Sequence[PairedTest]) -> str:
    verdicts = [verdict(t.low, t.high) for t in tests]
    if DASH in verdicts:
        return "One seed has no interval: more seeds are needed to tell a difference from chance."
    return (
        f"The 95 % interval over the seeds lies above zero in {verdicts.count('raised')}, holds zero in "
        f"{verdicts.count('not told apart')} and lies below it in {verdicts.count('lowered')}."
    )


def _corrected(setup: Setup) -> str:
    if all(p != p for p in setup.p_holm):
        return ""
    up, down = significant(setup, 1), significant(setup, -1)
    return (
        f"After Holm's correction for {len(setup.pairs)} tests p (t) is below {LEVEL} in {up.count} raised "
        f"and {down.count} lowered."
    )


def _whole(found: Overall) -> str:
    seeds, units = found.over_seeds, found.over_units
    text = (
        f"{scenario_name(found.scenario)} on the whole: {number_text(seeds.difference, signed=True)} points"
    )
    if seeds.low == seeds.low:
        text += f", 95 % interval over the seeds {interval_text(seeds.low, seeds.high)}"
    return f"{text}; Wilcoxon over {units.n} methods and data sets: p {p_text(units.p_wilcoxon)}."


def _below_sgd(ours: Sequence[Setup], lookup: dict) -> list[Finding]:
    """How many rows of replay lose to no replay at all in Task-IL."""
    said = []
    for variant, words in (("plain", "plain replay"), ("sharc", "SHARC")):
        here = [(s.label, str(found)) for s in ours if (found := below_here(s, variant).rows).of]
        if variant == "plain" and len({tuple(id(e) for e in s.entries if not e.is_sharc) for s in ours}) == 1:
            here = [("", text) for _, text in here[:1]]  # setups that differ in SHARC share their plain rows
        if here:
            text = (
                f"Task-IL: {_listed(here)} rows of {words} have a lower ACC than SGD, which replays nothing"
            )
            paper = below_paper(lookup, variant).rows
            said.append(Finding(text + (f"; in the paper {paper}." if paper.of else ".")))
    return said


def _equal_bytes(ours: Sequence[Setup]) -> list[Finding]:
    here = [(s.label, str(found)) for s in ours if (found := beaten(s)).of]
    if not here:
        return []
    text = (
        f"At equal bytes: {_listed(here)} rows of SHARC have a lower ACC than some plain row, SGD included, "
    )
    text += "that keeps no more bytes."
    return [Finding(text, f"{SOURCE} does not count the associative memory's bytes.")]


def _listed(here: Sequence[tuple[str, str]]) -> str:
    return "; ".join(text + (f" ({label})" if label else "") for label, text in here)
