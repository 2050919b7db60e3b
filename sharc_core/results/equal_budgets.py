"""Methods at equal bytes: the best ACC within a limit, and the area under ACC over the logarithm of bytes.

Bytes are all that a learner keeps (total_bytes): episodic memory, associative memory and learner. A series is
a model over all its budgets. JOINT has no series, because its bytes exclude the data that it needs at once.
Budgets and areas follow the accounting of MEMO (Zhou et al. 2023, arXiv 2205.13218): ACC over several
totals, and the area under that curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharc_core.common.formats import natural_key
from sharc_core.grid.axes import SETTINGS
from sharc_core.methods import traits
from sharc_core.results.statistics import PairedTest, bootstrap_interval, paired_test
from sharc_core.results.summary import (
    Entry,
    budget_words,
    model_label,
    row_key,
    unique,
    varying_settings,
)

STEPS = (1, 2, 5)  # limits are these multiples of powers of ten


def places_of(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return the (data set, backbone) pairs of the entries, in order."""
    return unique(((e.dataset, e.backbone) for e in entries), lambda p: tuple(map(natural_key, p)))


def is_closed_form(method: str) -> bool:
    """Return whether a method has neither gradients nor stored samples, such as NCM and SLDA."""
    trait = traits(method)
    return not (trait.trains_head or trait.uses_memory or trait.joint)


def is_replay(method: str) -> bool:
    """Return whether a method trains its head and stores samples."""
    trait = traits(method)
    return trait.trains_head and trait.uses_memory


@dataclass(frozen=True)
class Series:
    """A model over its budgets, on all places of one scenario. name: unique among the series of a grid."""

    name: str
    method: str
    entries: list[Entry]

    def at(self, place: tuple[str, str]) -> list[Entry]:
        """Return the entries on a (data set, backbone), by bytes."""
        chosen = [e for e in self.entries if (e.dataset, e.backbone) == place]
        return sorted(chosen, key=lambda e: (e.total_bytes, -e.acc))

    def best(self, place: tuple[str, str], limit: float = math.inf) -> Entry | None:
        """Return the entry with the best ACC of at most `limit` total bytes; None if none keeps so few."""
        fitting = [e for e in self.at(place) if e.total_bytes <= limit]
        return max(fitting, key=lambda e: e.acc, default=None)


def series_of(entries: Sequence[Entry]) -> list[Series]:
    """Return every model of one scenario's entries, JOINT excluded, in the order of the tables."""
    groups: dict[tuple, list[Entry]] = {}
    for entry in sorted((e for e in entries if not e.is_joint), key=lambda e: row_key(e)[1:]):
        settings = (getattr(entry, name) for name in SETTINGS)
        groups.setdefault((entry.method, entry.variant, *settings, entry.budget), []).append(entry)
    varying = varying_settings(entries)
    return [Series(_name(group[0], varying, entries), group[0].method, group) for group in groups.values()]


def _name(entry: Entry, varying: Sequence[str], among: Sequence[Entry]) -> str:
    name = model_label(entry, varying)
    words = "" if entry.budget is None else budget_words(entry, among)
    return f"{name} [{words}]" if words else name


@dataclass(frozen=True)
class Standing:
    """A series with its best entry on every place. acc: mean over the places, percent."""

    series: Series
    entries: list[Entry]

    @property
    def acc(self) -> float:
        """Mean ACC over the places."""
        return sum(e.acc for e in self.entries) / len(self.entries)

    @property
    def total_bytes(self) -> float:
        """Mean total bytes over the places."""
        return sum(e.total_bytes for e in self.entries) / len(self.entries)

    @property
    def by_seed(self) -> dict[int, float]:
        """Mean ACC over the places by seed, for the seeds that all of them have."""
        values = [e.acc_by_seed for e in self.entries]
        common = sorted(set.intersection(*map(set, values)))
        return {seed: sum(v[seed] for v in values) / len(values) for seed in common}

    def minus(self, other: "Standing") -> PairedTest:
        """Compare this standing with another, seed by seed. difference: this minus the other."""
        own, others = self.by_seed, other.by_seed
        common = [seed for seed in own if seed in others]
        if not common:  # no common seed: the difference of the means, without an interval
            return paired_test([other.acc], [self.acc])
        return paired_test([others[s] for s in common], [own[s] for s in common])


def standings(entries: Sequence[Entry], limit: float = math.inf) -> list[Standing]:
    """Return the series that fit into `limit` bytes on every place, with the best ACC first.

    entries: of one scenario.
    """
    places, result = places_of(entries), []
    for series in series_of(entries):
        best = [series.best(place, limit) for place in places]
        chosen = [entry for entry in best if entry is not None]
        if places and len(chosen) == len(places):
            result.append(Standing(series, chosen))
    return sorted(result, key=lambda s: -s.acc)


def limits(entries: Sequence[Entry]) -> list[float]:
    """Return the limits in bytes at which a comparison says something new, the smallest first.

    They are 1, 2 or 5 times a power of ten. At each at least two series fit on every place, and some series
    has another best entry than at the limit before.
    """
    totals = [e.total_bytes for e in entries if not e.is_joint and e.total_bytes > 0]
    if not totals:
        return []
    powers = range(math.floor(math.log10(min(totals))), math.ceil(math.log10(max(totals))) + 1)
    candidates = [step * 10.0**power for power in powers for step in STEPS]
    first_above = next(c for c in candidates if c >= max(totals))
    kept, before = [], None
    for limit in (c for c in candidates if c <= first_above):
        ranked = standings(entries, limit)
        chosen = {(s.series.name, *(id(e) for e in s.entries)) for s in ranked}
        if len(ranked) >= 2 and chosen != before:
            kept.append(limit)
            before = chosen
    return kept


@dataclass(frozen=True)
class Area:
    """The area under ACC over log10(bytes) of a series, divided by the width of the range: a mean ACC.

    value: percent, mean over the places and seeds. low, high: 95 % bootstrap interval over the seeds, NaN for
    one seed. is_constant: the series has a single total, which lies below the range.
    """

    name: str
    value: float
    low: float
    high: float
    is_constant: bool


def area_range(entries: Sequence[Entry], place: tuple[str, str]) -> tuple[float, float] | None:
    """Return the range of bytes of a place's areas; None where no range is common to the series.

    It starts where every series of at least two totals has one, and ends at the largest total.
    """
    totals = [_totals(series.at(place)) for series in series_of(entries)]
    several = [values for values in totals if len(values) > 1]
    if not several:
        return None
    low, high = max(values[0] for values in several), max(values[-1] for values in several)
    return (low, high) if 0 < low < high else None


def areas(entries: Sequence[Entry]) -> list[Area]:
    """Return the area of every series that has one on all places of a scenario, the largest first.

    ACC is interpolated linearly between a series' totals over log10(bytes). Above its largest total it is
    constant, as bytes may stay unused. A series of one total is constant if that lies below the range.
    """
    result = []
    ranges = [(place, area_range(entries, place)) for place in places_of(entries)]
    for series in series_of(entries):
        by_place = [_area_by_seed(series.at(place), limits_of) for place, limits_of in ranges]
        values = [by_seed for by_seed in by_place if by_seed is not None]
        if not values or len(values) < len(by_place):
            continue
        common = sorted(set.intersection(*map(set, values)))
        if common:
            mean = [float(np.mean([by_seed[seed] for by_seed in values])) for seed in common]
            is_constant = all(len(_totals(series.at(place))) == 1 for place, _ in ranges)
            result.append(Area(series.name, float(np.mean(mean)), *bootstrap_interval(mean), is_constant))
    return sorted(result, key=lambda area: -area.value)


def _totals(entries: Sequence[Entry]) -> list[float]:
    return sorted({entry.total_bytes for entry in entries})


def _area_by_seed(entries: Sequence[Entry], limits_of: tuple[float, float] | None) -> dict[int, float] | None:
    """Return the area of a series on one place by seed; None where it has none."""
    if limits_of is None or not entries or entries[0].total_bytes > limits_of[0]:
        return None
    if entries[-1].buffer is not None and len(_totals(entries)) < 2:
        return None
    low, high = np.log10(limits_of)
    best = {entry.total_bytes: entry for entry in reversed(entries)}  # of equal bytes the best ACC
    points = [best[total] for total in sorted(best)]
    x = np.log10([entry.total_bytes for entry in points])
    knots = np.unique([low, *(value for value in x if low < value < high), high])
    areas_of = {}
    for seed in set.intersection(*(set(entry.acc_by_seed) for entry in points)):
        acc = np.interp(knots, x, [entry.acc_by_seed[seed] for entry in points])
        areas_of[seed] = float(np.trapezoid(acc, knots) / (high - low))
    return areas_of
