"""Spearman's rank correlation over a few networks: interval, permutation test, and the power of that test.

The interval is Fisher's with the standard error of Bonett & Wright (2000, Psychometrika 65):
tanh(atanh(r) -+ 1.96 sqrt((1 + r^2 / 2) / (n - 3))). A perfect order of n networks has an infinite atanh; it
counts as the largest value below 1 that n ranks without ties can have, 1 - 12 / (n (n^2 - 1)). The interval
is approximate, so the verdict is that of the permutation test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, permutations

import numpy as np
import scipy

from sharc_core.results.comparisons import LEVEL

FEWEST = 5  # networks for a test: of four even a perfect order has p = 2/24, of five 2/120
EXACT = 9  # networks up to which all orders are tried
DRAWS = 20_000  # of orders for more networks, and of samples for the power


@dataclass(frozen=True)
class Correlation:
    """rho of n pairs, its 95 % interval and the two-sided p-value of the permutation test.

    All but n and rho are NaN for fewer than FEWEST pairs; without differences rho is NaN, too.
    """

    n: int
    rho: float
    low: float
    high: float
    p: float


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Return Spearman's correlation of pairs, with mean ranks for ties. Values equal to 9 decimals tie."""
    ranks = [scipy.stats.rankdata(np.round(np.asarray(values, dtype=float), 9)) for values in (x, y)]
    n = len(ranks[0])
    if n < 2 or any(np.ptp(values) == 0 for values in ranks):
        return Correlation(n, math.nan, math.nan, math.nan, math.nan)
    rho = float(np.clip(np.corrcoef(*ranks)[0, 1], -1, 1))
    if n < FEWEST:
        return Correlation(n, rho, math.nan, math.nan, math.nan)
    most = 1 - 12 / (n * (n**2 - 1))
    centre = math.atanh(min(max(rho, -most), most))
    half = scipy.stats.norm.ppf(0.975) * math.sqrt((1 + min(abs(rho), most) ** 2 / 2) / (n - 3))
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    p = float(np.mean(np.abs(_of_all_orders(*ranks)) >= abs(rho) - 1e-9))
    return Correlation(n, rho, min(low, rho), max(high, rho), p)


@cache
def smallest_rho(n: int) -> float:
    """Return the smallest |rho| of n pairs without ties with p < 0.05; NaN if there is none."""
    ranks = np.arange(n, dtype=float)
    values = np.sort(np.abs(_of_all_orders(ranks, ranks)).round(9))
    possible = np.unique(values)
    p = 1 - np.searchsorted(values, possible) / len(values)
    return float(possible[p < LEVEL].min()) if (p < LEVEL).any() else math.nan


@cache
def power(n: int, correlation: float) -> float:
    """Return how often the test finds a correlation of normal values from n pairs, in samples from a seed.

    It applies to one test without correction, and to values that are measured without error.
    """
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, DRAWS, n))
    y = correlation * x + math.sqrt(1 - correlation**2) * noise
    ranks = [values.argsort(1).argsort(1) - (n - 1) / 2 for values in (x, y)]
    rho = (ranks[0] * ranks[1]).sum(1) / (ranks[0][0] ** 2).sum()
    return float(np.mean(np.abs(rho) >= smallest_rho(n) - 1e-6))


def _of_all_orders(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the correlation (orders,) of ranks x (n,) with every order of the ranks y (n,)."""
    x, y = x - x.mean(), y - y.mean()
    return y[_orders(len(x))] @ x / math.sqrt((x @ x) * (y @ y))


@cache
def _orders(n: int) -> np.ndarray:
    """Return all orders of n indices, (n!, n), or DRAWS of them from a seed, the identity being the first."""
    if n <= EXACT:
        flat = chain.from_iterable(permutations(range(n)))
        return np.fromiter(flat, np.int8, n * math.factorial(n)).reshape(-1, n)
    rng = np.random.default_rng(0)
    return np.stack([np.arange(n), *(rng.permutation(n) for _ in range(DRAWS - 1))])
