"""Ranks of methods over data sets: Friedman's test and Nemenyi's critical difference (Demsar 2006).

Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, section 3.2.2: on every data
set the best method has rank 1, and two methods differ if their mean ranks differ by at least the critical
difference q sqrt(k (k + 1) / (6 N)) for k methods and N data sets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from sharc_core.common.formats import natural_key
from sharc_core.results.equal_budgets import Standing, limits, standings
from sharc_core.results.main_figures import FEWEST
from sharc_core.results.statistics import bootstrap_interval
from sharc_core.results.summary import Entry, unique

RESAMPLES = 2000


@dataclass(frozen=True)
class Ranked:
    """A method's mean rank and mean ACC over the data sets, with 95 % bootstrap intervals over the seeds."""

    name: str
    method: str
    is_sharc: bool
    rank: float
    rank_interval: tuple[float, float]
    acc: float
    acc_interval: tuple[float, float]


@dataclass(frozen=True)
class Ranking:
    """The methods of one backbone at no more than `limit` bytes, the best mean rank first.

    p: of Friedman's test that all methods are equal. critical_difference: Nemenyi's, at the level 0.05.
    """

    backbone: str
    limit: float
    datasets: list[str]
    rows: list[Ranked]
    p: float
    critical_difference: float

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Return the first and last index of every largest group of rows that are not told apart."""
        ranks = [row.rank for row in self.rows]
        spans: list[tuple[int, int]] = []
        for first in range(len(ranks)):
            last = max(i for i in range(len(ranks)) if ranks[i] - ranks[first] < self.critical_difference)
            if last > first and (not spans or last > spans[-1][1]):
                spans.append((first, last))
        return spans


def critical_difference(methods: int, datasets: int, level: float = 0.05) -> float:
    """Return Nemenyi's critical difference of mean ranks of k methods over N data sets."""
    q = float(scipy.stats.studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * datasets))


def rankings(entries: Sequence[Entry]) -> list[Ranking]:
    """Return a ranking per backbone with at least FEWEST data sets and methods. entries: of one scenario."""
    result = []
    for backbone in unique((e.backbone for e in entries), natural_key):
        chosen = [e for e in entries if e.backbone == backbone and not e.is_joint]
        largest = limits(chosen)[-1:]
        if largest and len({e.dataset for e in chosen}) >= FEWEST:
            ranked = standings(chosen, largest[0])
            if len(ranked) >= FEWEST:
                result.append(_ranking(backbone, largest[0], ranked))
    return result


def _ranking(backbone: str, limit: float, ranked: list[Standing]) -> Ranking:
    acc = np.array([[entry.acc for entry in standing.entries] for standing in ranked])  # (k, N)
    ranks = scipy.stats.rankdata(-acc.round(9), axis=0).mean(1)
    low, high = _rank_intervals(ranked)
    rows = [
        Ranked(
            standing.series.name,
            standing.series.method,
            standing.entries[0].is_sharc,
            float(ranks[i]),
            (float(low[i]), float(high[i])),
            standing.acc,
            bootstrap_interval(list(standing.by_seed.values())),
        )
        for i, standing in enumerate(ranked)
    ]
    constant = bool(np.ptp(ranks) == 0)
    p = 1.0 if constant else float(scipy.stats.friedmanchisquare(*acc.round(9)).pvalue)
    datasets = [entry.dataset for entry in ranked[0].entries]
    rows.sort(key=lambda row: (row.rank, -row.acc))
    return Ranking(backbone, limit, datasets, rows, p, critical_difference(*acc.shape))


def _rank_intervals(ranked: Sequence[Standing]) -> np.ndarray:
    """Return the 2.5 % and 97.5 % percentiles (2, k) of the mean ranks over resampled seeds.

    All methods share the resampled seeds. NaN for fewer than two common seeds.
    """
    seeds = sorted(set.intersection(*(set(s.by_seed) for s in ranked)))
    if len(seeds) < 2:
        return np.full((2, len(ranked)), np.nan)
    acc = np.array([[[e.acc_by_seed[seed] for e in s.entries] for s in ranked] for seed in seeds])
    drawn = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))
    ranks = scipy.stats.rankdata(-acc[drawn].mean(1).round(9), axis=1).mean(2)  # (RESAMPLES, k)
    return np.percentile(ranks, [2.5, 97.5], axis=0)
