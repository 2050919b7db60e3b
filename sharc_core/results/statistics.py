"""Statistics over seeds: confidence intervals, paired tests, effect sizes and corrections for many tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike


def confidence_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the Student-t interval of the mean of values (N,), mean -+ t_{N-1} s / sqrt(N).

    NaN for N < 2.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return np.nan, np.nan
    half = scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def bootstrap_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of values (N,), with equal bits for equal values.

    NaN for N < 2. The resamples come from a fixed seed.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return np.nan, np.nan
    result = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=level, method="percentile", random_state=0
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@dataclass(frozen=True)
class PairedTest:
    """The differences b - a of n pairs: mean, 95 % Student-t interval, two-sided p-values. NaN for n < 2.

    With n pairs Wilcoxon's exact p cannot fall below 2^(1-n): 0.0625 for five seeds. effect: Cohen's d_z
    (mean over sample deviation of the differences) times Hedges' correction 1 - 3 / (4 (n - 1) - 1), as d_z
    alone overestimates the effect for few pairs. It is NaN where all differences are equal.
    """

    n: int
    difference: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float
    effect: float


def paired_test(a: ArrayLike, b: ArrayLike) -> PairedTest:
    """Compare b with a, pair by pair (same seed). a, b: (N,). Raises ValueError for unequal lengths.

    Where all differences are equal (up to rounding error) the t statistic is undefined: p_t is then 1 for a
    difference of zero and 0 for any other. Wilcoxon's test ignores pairs without a difference.
    """
    difference = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    if np.shape(a) != np.shape(b):
        raise ValueError(f"unpaired values: {np.shape(a)} and {np.shape(b)}")
    n = len(difference)
    mean = float(difference.mean()) if n else np.nan
    low, high = confidence_interval(difference)
    p_t = p_wilcoxon = effect = np.nan
    if n >= 2 and not np.isnan(mean):
        rounded = difference.round(9)
        constant = np.ptp(rounded) == 0
        p_t = float(rounded[0] == 0) if constant else float(scipy.stats.ttest_1samp(difference, 0).pvalue)
        if not constant:
            effect = float(mean / difference.std(ddof=1) * (1 - 3 / (4 * (n - 1) - 1)))
        nonzero = rounded[rounded != 0]
        p_wilcoxon = float(scipy.stats.wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0
    return PairedTest(n, mean, low, high, p_t, p_wilcoxon, effect)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order.

    The i-th smallest of m is multiplied by m - i + 1. A corrected value is at least as large as that of every
    smaller p, and at most 1. NaN stays NaN and does not count towards m.
    """
    order = sorted((i for i, value in enumerate(p) if value == value), key=lambda i: p[i])
    corrected, largest = [float("nan")] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(order) - rank)))
        corrected[i] = largest
    return corrected


def kendall_tau(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Return Kendall's tau-b of a and b (..., N) along the last axis (Kendall 1945).

    Values that agree up to rounding error are ties. NaN where all values of a or b are tied.
    """
    orders = [
        np.sign((values[..., :, None] - values[..., None, :]).round(9))
        for values in (np.asarray(a, dtype=float), np.asarray(b, dtype=float))
    ]
    untied = [np.abs(order).sum((-2, -1)) for order in orders]
    with np.errstate(invalid="ignore"):
        return (orders[0] * orders[1]).sum((-2, -1)) / np.sqrt(untied[0] * untied[1])


def relative_gain(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float]:
    """Return mean(b) / mean(a) - 1 over pairs, in percent, and its 95 % interval (Fieller). a, b: (N,).

    The interval holds every ratio r for which a paired t test does not reject b - r a = 0. It is NaN for
    N < 2, and where the mean of a does not differ significantly from 0 (the interval is then unbounded).
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    n, mean_a, mean_b = len(a), a.mean(), b.mean()
    gain = float(100 * (mean_b / mean_a - 1)) if mean_a else np.nan
    if n < 2:
        return gain, np.nan, np.nan
    covariance = np.cov(a, b) * scipy.stats.t.ppf(0.975, n - 1) ** 2 / n
    quadratic = mean_a**2 - covariance[0, 0]
    linear, constant = mean_a * mean_b - covariance[0, 1], mean_b**2 - covariance[1, 1]
    if quadratic <= 0:
        return gain, np.nan, np.nan
    root = np.sqrt(max(linear**2 - quadratic * constant, 0.0))
    low, high = ((linear + sign * root) / quadratic for sign in (-1, 1))
    return gain, float(100 * (low - 1)), float(100 * (high - 1))


def welch(mean_a: float, std_a: float, mean_b: float, std_b: float, n: int) -> tuple[float, float, float]:
    """Return the difference b - a of two means of n values each, and its 95 % interval (Welch)."""
    share_a, share_b = std_a**2 / n, std_b**2 / n
    difference, error = mean_b - mean_a, np.sqrt(share_a + share_b)
    if error == 0:
        return difference, difference, difference
    freedom = (share_a + share_b) ** 2 * (n - 1) / (share_a**2 + share_b**2)
    half = float(scipy.stats.t.ppf(0.975, freedom) * error)
    return difference, difference - half, difference + half
