"""Variance components of a table of orders by seeds, and the interval of its mean.

The model has two crossed random effects and one run per cell: y_os = m + a_o + b_s + e_os, with variances
v_order, v_seed and v_residual (the interaction of order and seed, and what rounds it). Mean squares estimate
them (the analysis of variance of balanced data; Searle, Casella & McCulloch 1992, "Variance Components"):

    v_residual = MS_residual,  v_order = (MS_order - MS_residual) / S,  v_seed = (MS_seed - MS_residual) / O.

Orders and seeds are compared by v_order - v_seed. Runs with one seed vary over orders by v_order plus
v_residual, runs on one order vary over seeds by v_seed plus v_residual: the interaction cancels.

Intervals are generalised confidence intervals (Weerahandi 1993, "Generalized confidence intervals"): a mean
square's expectation is drawn as sum of squares over a chi-squared variate with its degrees of freedom, and
an interval holds 95 % of what a function of the expectations then is. For effects with normal distributions
they hold the truth in 93 to 98 % of tables of 5 x 5, 3 x 8 and 2 x 2 runs, components of zero included. For
order or seed alone the lower bound is above zero where the exact F test at 2.5 % rejects zero; so it is for
their difference in tables of as many orders as seeds (in tables of 3 x 8 one side has up to 4 %).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy

DRAWS = 20_000
Sizes = tuple[int, int]  # O, S


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Components:
    """Estimates from a table of orders by seeds.

    order, seed, residual: variances. They are not truncated, so an estimate or a bound may be below zero, and
    a component is not told apart from zero if its lower bound is. excess: v_order - v_seed, the variance over
    orders with one seed minus that over seeds on one order. share: of v_order in the sum of all three, each
    truncated at zero.
    """

    order: Estimate
    seed: Estimate
    residual: Estimate
    excess: Estimate
    share: Estimate


def mean_squares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean squares of order, seed and residual, and their degrees of freedom, for values (O, S)."""
    orders, seeds = values.shape
    by_order, by_seed = values.mean(1), values.mean(0)
    residual = values - by_order[:, None] - by_seed[None] + values.mean()
    sums = [
        seeds * np.square(by_order - values.mean()).sum(),
        orders * np.square(by_seed - values.mean()).sum(),
        np.square(residual).sum(),
    ]
    freedom = np.array([orders - 1, seeds - 1, (orders - 1) * (seeds - 1)])
    return np.array(sums) / freedom, freedom


def components(values: np.ndarray) -> Components:
    """Return the variance components of values (O, S), one row per order and one column per seed.

    Raises ValueError for fewer than two orders or seeds, and for a missing value.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or min(values.shape) < 2 or np.isnan(values).any():
        raise ValueError(f"a complete table of two or more orders and seeds is needed, not {values.shape}")
    squares, freedom = mean_squares(values)
    drawn = squares * freedom / _variates(*freedom)
    sizes = values.shape[0], values.shape[1]
    names = {"order": _order, "seed": _seed, "residual": _residual, "excess": _excess, "share": _share}
    return Components(**{name: _estimate(of, squares, drawn, sizes) for name, of in names.items()})


@cache
def _variates(*freedom: int) -> np.ndarray:
    """Return chi-squared variates (DRAWS, 3), the same for every table of a size."""
    return np.random.default_rng(0).chisquare(freedom, (DRAWS, len(freedom)))


def _estimate(
    of: Callable[[np.ndarray, Sizes], np.ndarray], squares: np.ndarray, drawn: np.ndarray, sizes: Sizes
) -> Estimate:
    low, high = np.quantile(of(drawn, sizes), [0.025, 0.975])
    return Estimate(float(of(squares[None], sizes)[0]), float(low), float(high))


def _order(squares: np.ndarray, sizes: Sizes) -> np.ndarray:
    return (squares[:, 0] - squares[:, 2]) / sizes[1]


def _seed(squares: np.ndarray, sizes: Sizes) -> np.ndarray:
    return (squares[:, 1] - squares[:, 2]) / sizes[0]


def _residual(squares: np.ndarray, sizes: Sizes) -> np.ndarray:
    return squares[:, 2]


def _excess(squares: np.ndarray, sizes: Sizes) -> np.ndarray:
    return _order(squares, sizes) - _seed(squares, sizes)


def _share(squares: np.ndarray, sizes: Sizes) -> np.ndarray:
    parts = np.maximum([_order(squares, sizes), _seed(squares, sizes), _residual(squares, sizes)], 0.0)
    total = parts.sum(0)
    return np.divide(parts[0], total, out=np.zeros_like(total), where=total > 0)


def mean_interval(values: np.ndarray) -> Estimate:
    """Return the mean of values (O, S) with its 95 % interval over further orders and seeds.

    The variance of the mean is (MS_order + MS_seed - MS_residual) / (O S), with Satterthwaite's degrees of
    freedom; where the residual makes it smaller than either part, the larger part is taken. Then the interval
    is wider than needed: it holds the truth in 99 % of tables that vary by their residual alone.
    """
    values = np.asarray(values, dtype=float)
    squares, freedom = mean_squares(values)
    combined = squares[0] + squares[1] - squares[2]
    largest = int(squares[:2].argmax())
    if combined > squares[largest]:
        degrees = combined**2 / (np.square(squares) / freedom).sum()
    else:
        combined, degrees = squares[largest], freedom[largest]
    half = scipy.stats.t.ppf(0.975, degrees) * np.sqrt(combined / values.size)
    return Estimate(float(values.mean()), float(values.mean() - half), float(values.mean() + half))
