"""Pairs by setup, and what they say together: the numbers behind the scorecard.

A pair is SHARC against the plain method on one data set, at one buffer, in one scenario; the paper has 72.
A setup is one way of running them here: backbone, budget and SHARC's settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sharc_core.backbones.names import BATCH_NORMS, network_and_batch_norm
from sharc_core.common.formats import DASH, natural_key
from sharc_core.grid.protocol import concerning
from sharc_core.learning.metrics import PairedTest, holm, paired_test
from sharc_core.results.display_names import scenario_key
from sharc_core.results.pairs import Pair, equal_bytes, paired
from sharc_core.results.summary import SETTINGS, Entry, blocks, row_key, setting_text, unique

LEVEL = 0.05


@dataclass(frozen=True)
class Setup:
    """Entries of one way of running SHARC, the plain ones beside it; its pairs and their corrected p-values.

    label: what tells it from the other setups; empty for the only one. p_holm: aligned with pairs, the t
    test's p-values corrected over all pairs of the setup.
    """

    label: str
    entries: list[Entry]
    pairs: list[Pair]
    p_holm: list[float]


def setups(entries: Sequence[Entry]) -> list[Setup]:
    """Every setup of the grid; one without pairs where a backbone and budget has no SHARC.

    The scenarios' own thetas are one setup; several thetas in a scenario are several.
    """
    groups: list[tuple[list[str], list[Entry]]] = []
    for block in blocks(entries):
        where = [f"backbone {block[0].backbone}"]
        where += [f"budget in {e.budget}" for e in block if e.budget is not None][:1]
        sharc = [e for e in block if e.is_sharc]
        keys = _setup_settings(sharc)
        plain = [e for e in block if not e.is_sharc]
        if not sharc:
            groups.append((where, plain))
        for key in unique((_key(e, keys) for e in sharc), str):
            chosen = [e for e in sharc if _key(e, keys) == key]
            words = [text for name in keys if (text := setting_text(chosen[0], name))]
            # of the plain runs those that the same rules lead to
            protocol = chosen[0].protocol
            beside = [
                e for e in plain if e.buffer is None or e.protocol == concerning(protocol, e.method, "plain")
            ]
            groups.append((where + words, beside + chosen))
    shared = set.intersection(*(set(words) for words, _ in groups)) if len(groups) > 1 else None
    found = []
    for words, chosen in groups:
        label = "" if shared is None else ", ".join(word for word in words if word not in shared)
        pairs = sorted(paired(chosen), key=_pair_key)
        found.append(Setup(label, chosen, pairs, holm([pair.test.p_t for pair in pairs])))
    return found


def _setup_settings(sharc: Sequence[Entry]) -> list[str]:
    """SHARC's settings that a setup is told by: theta and mass only where a scenario has several."""
    fixed = [name for name in SETTINGS if name not in ("theta", "mass")]
    kept: dict[tuple, set] = {}
    for entry in sharc:
        kept.setdefault((entry.scenario, *_key(entry, fixed)), set()).add((entry.theta, entry.mass))
    return [*(["theta", "mass"] if any(len(values) > 1 for values in kept.values()) else []), *fixed]


def _key(entry: Entry, names: Sequence[str]) -> tuple:
    return tuple(getattr(entry, name) for name in names)


def _pair_key(pair: Pair) -> tuple:
    entry = pair.sharc
    return scenario_key(entry.scenario), natural_key(entry.dataset), row_key(entry)


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says: raised, lowered, not told apart; a dash without one."""
    if low != low:
        return DASH
    return "raised" if low > 0 else "lowered" if high < 0 else "not told apart"


@dataclass(frozen=True)
class Overall:
    """SHARC's effect over all pairs of a scenario. See overall()."""

    scenario: str
    units: list[float]
    over_units: PairedTest
    over_seeds: PairedTest


def overall(pairs: Sequence[Pair]) -> list[Overall]:
    """Per scenario: does SHARC help on the whole?

    A unit is a method on a data set, its mean difference over the buffers; methods with identical results
    (MER with the published settings is ER) are one. over_units: Wilcoxon's signed-rank test of the units.
    over_seeds: the units' mean, seed by seed over the seeds that all pairs share.
    """
    found = []
    for scenario in unique((pair.sharc.scenario for pair in pairs), scenario_key):
        units: dict[tuple, list[Pair]] = {}
        for pair in pairs:
            if pair.sharc.scenario == scenario:
                units.setdefault((pair.sharc.dataset, pair.sharc.method), []).append(pair)
        distinct = {
            (dataset, tuple((p.sharc.buffer, p.plain.accs, p.sharc.accs) for p in group)): group
            for (dataset, _), group in units.items()
        }
        differences = [_differences(group) for group in distinct.values()]
        common = sorted(set.intersection(*(set(found) for found in differences)))
        means = [_mean([pair.test.difference for pair in group]) for group in distinct.values()]
        by_seed = [_mean([values[seed] for values in differences]) for seed in common]
        found.append(
            Overall(
                scenario,
                means,
                paired_test([0.0] * len(means), means),
                paired_test([0.0] * len(by_seed), by_seed),
            )
        )
    return found


def _differences(group: Sequence[Pair]) -> dict[int, float]:
    """SHARC less plain by seed, mean over the pairs of a unit."""
    pairs = [(pair.plain.acc_by_seed, pair.sharc.acc_by_seed) for pair in group]
    common = set.intersection(*(set(plain) & set(sharc) for plain, sharc in pairs))
    return {seed: _mean([sharc[seed] - plain[seed] for plain, sharc in pairs]) for seed in common}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class Count(NamedTuple):
    """`3 of 12`; a dash where there is nothing to count."""

    count: int
    of: int

    def __str__(self) -> str:
        return f"{self.count} of {self.of}" if self.of else DASH


def count(values: Sequence, test: Callable[..., bool]) -> Count:
    """How many of the values pass a test."""
    return Count(sum(bool(test(value)) for value in values), len(values))


def place(entry: Entry) -> tuple:
    """The key of an entry's pair in published.published_pairs."""
    return entry.scenario, entry.dataset, entry.buffer, entry.method


def significant(setup: Setup, sign: int) -> Count:
    """Pairs that SHARC raised (1) or lowered (-1) with a corrected p-value below LEVEL."""
    cases = list(zip(setup.pairs, setup.p_holm, strict=True))
    return count(cases, lambda case: case[1] < LEVEL and case[0].test.difference * sign > 0)


def beaten(setup: Setup) -> Count:
    """SHARC rows with a lower mean ACC than some plain row (SGD too, JOINT not) that keeps no more bytes."""
    return count(equal_bytes(setup.entries), lambda c: c.other is not None and c.other.acc > c.sharc.acc)


def only(setup: Setup, scenario: str) -> Setup:
    """A setup's part in one scenario; p-values stay corrected for all of its pairs."""
    kept = [(p, v) for p, v in zip(setup.pairs, setup.p_holm, strict=True) if p.sharc.scenario == scenario]
    entries = [e for e in setup.entries if e.scenario == scenario]
    return Setup(setup.label, entries, [p for p, _ in kept], [v for _, v in kept])


class BelowSgd(NamedTuple):
    """What loses to SGD, which replays nothing. methods: by the mean over their rows."""

    rows: Count
    methods: Count


def below_sgd(rows: Sequence[tuple[tuple, float]], sgd: dict[tuple[str, str], float]) -> BelowSgd:
    """Task-IL rows below SGD. rows: (place, ACC). sgd: (scenario, data set) -> ACC."""
    margins: dict[str, list[float]] = {}
    for (scenario, dataset, _, method), acc in rows:
        if scenario == "task_il" and (scenario, dataset) in sgd:
            margins.setdefault(method, []).append(acc - sgd[scenario, dataset])
    every = [margin for values in margins.values() for margin in values]
    means = [_mean(values) for values in margins.values()]
    return BelowSgd(count(every, lambda m: m < 0), count(means, lambda m: m < 0))


def below_here(setup: Setup, variant: str) -> BelowSgd:
    """below_sgd of a setup's plain or SHARC rows."""
    chosen = [e for e in setup.entries if e.variant == variant and e.buffer is not None]
    sgd = {(e.scenario, e.dataset): e.acc for e in setup.entries if e.method == "sgd"}
    return below_sgd([(place(e), e.acc) for e in chosen], sgd)


def below_paper(lookup: dict, variant: str, among: set[tuple] | None = None) -> BelowSgd:
    """below_sgd of the paper's plain or SHARC rows. lookup: published_lookup. among: places; None: all."""
    rows = [(k[:4], v["acc_mean"]) for k, v in lookup.items() if k[2] is not None and k[4] == variant]
    kept = [row for row in rows if among is None or row[0] in among]
    return below_sgd(kept, {k[:2]: v["acc_mean"] for k, v in lookup.items() if k[3] == "sgd"})


def own_setting(ours: Sequence[Setup]) -> str:
    """What stands beside every comparison with the paper: our backbones, their batch norm, our memories."""
    names = dict.fromkeys(e.backbone for s in ours for e in s.entries)
    backbones = [
        f"{', '.join(chosen)}, {words}"
        for batch_norm, words in BATCH_NORMS.items()
        if (chosen := [name for name in names if network_and_batch_norm(name)[1] == batch_norm])
    ]
    memories = ", ".join(dict.fromkeys(e.associative_memory for s in ours for e in s.entries if e.is_sharc))
    text = f"Backbone here: {'; '.join(backbones)}"
    return f"{text}; associative memory: {memories}." if memories else f"{text}."
