"""Spearman's rank correlation over a few networks, with an interval.

The interval is Fisher's with the standard error of Bonett & Wright (2000, Psychometrika 65):
tanh(atanh(r) -+ 1.96 sqrt((1 + r^2 / 2) / (n - 3))). A perfect order of n networks has an infinite atanh; it
counts as the largest value below 1 that n ranks without ties can have, 1 - 12 / (n (n^2 - 1)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from sharc_core.results.comparisons import verdict

FEWEST = 5  # networks for an interval; with four not even a perfect order is significant at 5 %


@dataclass(frozen=True)
class Correlation:
    """rho of n pairs with its 95 % interval; NaN for fewer than FEWEST pairs or without differences."""

    n: int
    rho: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`raised`, `lowered` or `not told apart`; a dash without an interval."""
        return verdict(self.low, self.high)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Return Spearman's correlation of pairs, with mean ranks for ties. Values equal to 9 decimals tie."""
    ranks = [scipy.stats.rankdata(np.round(np.asarray(values, dtype=float), 9)) for values in (x, y)]
    n = len(ranks[0])
    if n < 2 or any(np.ptp(values) == 0 for values in ranks):
        return Correlation(n, math.nan, math.nan, math.nan)
    rho = float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1))
    if n < FEWEST:
        return Correlation(n, rho, math.nan, math.nan)
    most = 1 - 12 / (n * (n**2 - 1))
    centre = math.atanh(min(max(rho, -most), most))
    half = scipy.stats.norm.ppf(0.975) * math.sqrt((1 + min(abs(rho), most) ** 2 / 2) / (n - 3))
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    return Correlation(n, rho, min(low, rho), max(high, rho))
