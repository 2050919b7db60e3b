"""Comparisons of SHARC: with the plain method, at equal bytes, with SGD, and with the paper's tables.

A pair is SHARC and the plain method on one data set, at one buffer, in one scenario; the paper has 72 pairs.
A setup is one way of running the pairs here: a backbone, a budget and SHARC's settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sharc_core.backbones.names import BATCH_NORMS, network_and_batch_norm
from sharc_core.backbones.own_features import NAME as OWN_FEATURES
from sharc_core.common.formats import DASH, natural_key
from sharc_core.grid.protocol import concerning
from sharc_core.results.display_names import scenario_key
from sharc_core.results.statistics import PairedTest, holm, paired_test
from sharc_core.results.summary import SETTINGS, Entry, blocks, row_key, setting_text, unique

LEVEL = 0.05  # of significance


# --- SHARC and the plain method ------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """SHARC and the plain method on the same data set, backbone, scenario, buffer, protocol and seeds.

    test: SHARC minus plain.
    """

    plain: Entry
    sharc: Entry
    test: PairedTest


def paired(entries: Sequence[Entry]) -> list[Pair]:
    """Return every SHARC entry with its plain entry, where both were run with a common seed."""

    def key(entry: Entry) -> tuple:
        return (
            entry.scenario,
            entry.dataset,
            entry.backbone,
            entry.budget,
            entry.buffer,
            entry.method,
            # of SHARC's protocol only the rules that also change a plain run
            concerning(entry.protocol, entry.method, "plain") if entry.is_sharc else entry.protocol,
        )

    plain_entries = {key(entry): entry for entry in entries if not entry.is_sharc}
    pairs = []
    for sharc in entries:
        plain = plain_entries.get(key(sharc))
        if not sharc.is_sharc or plain is None:
            continue
        plain_acc, sharc_acc = plain.acc_by_seed, sharc.acc_by_seed
        common = [seed for seed in sharc.seeds if seed in plain_acc]
        if common:
            test = paired_test([plain_acc[s] for s in common], [sharc_acc[s] for s in common])
            pairs.append(Pair(plain, sharc, test))
    return pairs


def verdict(low: float, high: float) -> str:
    """Return what the interval of a difference shows; a dash where there is no interval."""
    if low != low:
        return DASH
    return "raised" if low > 0 else "lowered" if high < 0 else "not told apart"


# --- equal bytes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualBytes:
    """A SHARC entry and the best plain entries, by ACC, that keep no more bytes than it; None without one.

    same_method: of SHARC's own method. any_method: of all methods trained on the stream, SGD included.
    """

    sharc: Entry
    same_method: Entry | None
    any_method: Entry | None


def equal_bytes(entries: Sequence[Entry]) -> list[EqualBytes]:
    """Compare every SHARC entry with the plain ones of the same data set, backbone and scenario.

    JOINT is excluded: it needs all data at once, which its bytes do not include.
    """
    cases = []
    for sharc in entries:
        if not sharc.is_sharc:
            continue
        place = (sharc.scenario, sharc.dataset, sharc.backbone)
        candidates = [
            plain
            for plain in entries
            if not plain.is_sharc
            and not plain.is_joint
            and (plain.scenario, plain.dataset, plain.backbone) == place
            and plain.total_bytes <= sharc.total_bytes
        ]
        same_method = [plain for plain in candidates if plain.method == sharc.method]
        cases.append(EqualBytes(sharc, _best(same_method), _best(candidates)))
    return cases


def _best(candidates: list[Entry]) -> Entry | None:
    return max(candidates, key=lambda entry: entry.acc, default=None)


def matched(entries: Sequence[Entry], same_method: bool = False) -> "Count":
    """Count the SHARC entries that a plain entry matches at equal bytes.

    A plain entry matches if it keeps no more bytes and its mean ACC is at least as high: SHARC has to be
    better to be worth its bytes, as in the Pareto front of the figure. SHARC entries without a plain entry
    of no more bytes are not counted. same_method: compare with the same method only.
    """
    cases = [(c.sharc, c.same_method if same_method else c.any_method) for c in equal_bytes(entries)]
    return count([(s, p) for s, p in cases if p is not None], lambda case: case[1].acc >= case[0].acc)


# --- setups --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setup:
    """One way of running SHARC: its entries with the plain ones, its pairs, their corrected p-values.

    label: what distinguishes it from the other setups; empty if it is the only one. p_holm: the t test's
    p-values, corrected over all pairs of the setup, in the order of `pairs`.
    """

    label: str
    entries: list[Entry]
    pairs: list[Pair]
    p_holm: list[float]


def setups(entries: Sequence[Entry]) -> list[Setup]:
    """Return every setup of the grid; where a backbone and budget has no SHARC, a setup without pairs.

    A theta for each scenario is one setup; several thetas in one scenario are several setups.
    """
    groups: list[tuple[list[str], list[Entry]]] = []
    for block in blocks(entries):
        common_words = [f"backbone {block[0].backbone}"]
        common_words += [f"budget in {e.budget}" for e in block if e.budget is not None][:1]
        sharc = [e for e in block if e.is_sharc]
        names = _distinguishing_settings(sharc)
        plain = [e for e in block if not e.is_sharc]
        if not sharc:
            groups.append((common_words, plain))
        for values in unique((_values(e, names) for e in sharc), str):
            chosen = [e for e in sharc if _values(e, names) == values]
            words = [text for name in names if (text := setting_text(chosen[0], name))]
            protocol = chosen[0].protocol
            plain_of_protocol = [
                e for e in plain if e.buffer is None or e.protocol == concerning(protocol, e.method, "plain")
            ]
            groups.append((common_words + words, plain_of_protocol + chosen))
    result = []
    for words, chosen in groups:
        # setups without SHARC have no SHARC settings, so what all others share need not be said
        alike = [other for other, members in groups if _has_sharc(members) or not _has_sharc(chosen)]
        shared = set.intersection(*map(set, alike))
        label = "" if len(alike) == 1 else ", ".join(word for word in words if word not in shared)
        pairs = sorted(paired(chosen), key=_pair_order)
        result.append(Setup(label, chosen, pairs, holm([pair.test.p_t for pair in pairs])))
    return result


def _has_sharc(entries: Sequence[Entry]) -> bool:
    return any(entry.is_sharc for entry in entries)


def _distinguishing_settings(sharc: Sequence[Entry]) -> list[str]:
    """Return the settings that set setups apart: theta and mass only where a scenario has several."""
    fixed = [name for name in SETTINGS if name not in ("theta", "mass")]
    shares: dict[tuple, set] = {}
    for entry in sharc:
        shares.setdefault((entry.scenario, *_values(entry, fixed)), set()).add((entry.theta, entry.mass))
    return [*(["theta", "mass"] if any(len(values) > 1 for values in shares.values()) else []), *fixed]


def _values(entry: Entry, names: Sequence[str]) -> tuple:
    return tuple(getattr(entry, name) for name in names)


def _pair_order(pair: Pair) -> tuple:
    entry = pair.sharc
    return scenario_key(entry.scenario), natural_key(entry.dataset), row_key(entry)


def in_scenario(setup: Setup, scenario: str) -> Setup:
    """Return a setup's part in one scenario; its p-values stay corrected for all pairs of the setup."""
    kept = [(p, v) for p, v in zip(setup.pairs, setup.p_holm, strict=True) if p.sharc.scenario == scenario]
    entries = [e for e in setup.entries if e.scenario == scenario]
    return Setup(setup.label, entries, [p for p, _ in kept], [v for _, v in kept])


@dataclass(frozen=True)
class Overall:
    """SHARC's effect over all pairs of a scenario, as `overall` computes it."""

    scenario: str
    units: list[float]
    over_units: PairedTest
    over_seeds: PairedTest


def overall(pairs: Sequence[Pair]) -> list[Overall]:
    """Test per scenario whether SHARC helps over all pairs.

    A unit is a method on a data set: its mean difference over the buffers. Methods with identical results
    (MER with the published settings is ER) are one unit. over_units: Wilcoxon's signed-rank test of the
    units. over_seeds: the mean over the units, seed by seed, for the seeds that all pairs share.
    """
    effects = []
    for scenario in unique((pair.sharc.scenario for pair in pairs), scenario_key):
        groups: dict[tuple, list[Pair]] = {}
        for pair in pairs:
            if pair.sharc.scenario == scenario:
                groups.setdefault((pair.sharc.dataset, pair.sharc.method), []).append(pair)
        distinct = {
            (dataset, tuple((p.sharc.buffer, p.plain.accs, p.sharc.accs) for p in group)): group
            for (dataset, _), group in groups.items()
        }
        by_seed = [_differences(group) for group in distinct.values()]
        common = sorted(set.intersection(*(set(values) for values in by_seed)))
        units = [_mean([pair.test.difference for pair in group]) for group in distinct.values()]
        means = [_mean([values[seed] for values in by_seed]) for seed in common]
        effects.append(
            Overall(
                scenario,
                units,
                paired_test([0.0] * len(units), units),
                paired_test([0.0] * len(means), means),
            )
        )
    return effects


def _differences(group: Sequence[Pair]) -> dict[int, float]:
    """Return SHARC minus plain by seed, averaged over the pairs of a unit."""
    pairs = [(pair.plain.acc_by_seed, pair.sharc.acc_by_seed) for pair in group]
    common = set.intersection(*(set(plain) & set(sharc) for plain, sharc in pairs))
    return {seed: _mean([sharc[seed] - plain[seed] for plain, sharc in pairs]) for seed in common}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- counts --------------------------------------------------------------------------------------------


class Count(NamedTuple):
    """A count that prints as `3 of 12`, or as a dash where there is nothing to count."""

    count: int  # type: ignore[assignment]  # the tuple's method of that name is not used
    of: int

    def __str__(self) -> str:
        return f"{self.count} of {self.of}" if self.of else DASH


def count(values: Sequence, test: Callable[..., bool]) -> Count:
    """Count the values that pass a test."""
    return Count(sum(bool(test(value)) for value in values), len(values))


def significant(setup: Setup, sign: int) -> Count:
    """Count the pairs that SHARC raised (sign 1) or lowered (-1) with a corrected p-value below LEVEL."""
    cases = list(zip(setup.pairs, setup.p_holm, strict=True))
    return count(cases, lambda case: case[1] < LEVEL and case[0].test.difference * sign > 0)


class BelowSgd(NamedTuple):
    """What has a lower ACC than SGD, which replays nothing. methods: by the mean over their rows."""

    rows: Count
    methods: Count


def below_sgd(
    rows: Sequence[tuple[tuple, float]], sgd: dict[tuple[str, str], float], scenario: str = "task_il"
) -> BelowSgd:
    """Count a scenario's rows below SGD. rows: (published_key, ACC). sgd: ACC by (scenario, data set)."""
    margins: dict[str, list[float]] = {}
    for (of_scenario, dataset, _, method), acc in rows:
        if of_scenario == scenario and (scenario, dataset) in sgd:
            margins.setdefault(method, []).append(acc - sgd[scenario, dataset])
    every = [margin for values in margins.values() for margin in values]
    means = [_mean(values) for values in margins.values()]
    return BelowSgd(count(every, lambda m: m < 0), count(means, lambda m: m < 0))


def below_here(setup: Setup, variant: str) -> BelowSgd:
    """Count a setup's plain or SHARC rows that are below SGD in Task-IL."""
    chosen = [e for e in setup.entries if e.variant == variant and e.buffer is not None]
    sgd = {(e.scenario, e.dataset): e.acc for e in setup.entries if e.method == "sgd"}
    return below_sgd([(published_key(e), e.acc) for e in chosen], sgd)


def below_paper(
    lookup: dict, variant: str, among: set[tuple] | None = None, scenario: str = "task_il"
) -> BelowSgd:
    """Count the paper's plain or SHARC rows that are below SGD in a scenario.

    lookup: published_lookup. among: published_keys of the rows to count; None for all.
    """
    rows = [(k[:4], v["acc_mean"]) for k, v in lookup.items() if k[2] is not None and k[4] == variant]
    kept = [row for row in rows if among is None or row[0] in among]
    sgd = {k[:2]: v["acc_mean"] for k, v in lookup.items() if k[3] == "sgd"}
    return below_sgd(kept, sgd, scenario)


# --- comparison with the paper --------------------------------------------------------------------------


def published_key(entry: Entry) -> tuple:
    """Return the key of an entry's pair in published.published_pairs."""
    return entry.scenario, entry.dataset, entry.buffer, entry.method


def setting_here(ours: Sequence[Setup]) -> str:
    """Name the backbones, their batch norm and the associative memories, which differ from the paper's."""
    names = dict.fromkeys(e.backbone for s in ours for e in s.entries)
    own = [f"{OWN_FEATURES}, as given"] if OWN_FEATURES in names else []
    names.pop(OWN_FEATURES, None)
    backbones = own + [
        f"{', '.join(chosen)}, {words}"
        for batch_norm, words in BATCH_NORMS.items()
        if (chosen := [name for name in names if network_and_batch_norm(name)[1] == batch_norm])
    ]
    memories = ", ".join(
        dict.fromkeys(str(e.associative_memory) for s in ours for e in s.entries if e.is_sharc)
    )
    text = f"Backbone here: {'; '.join(backbones)}"
    return f"{text}; associative memory: {memories}." if memories else f"{text}."
