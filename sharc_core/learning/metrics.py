"""Continual-learning metrics: pure functions from accuracy matrices to numbers.

A matrix has shape (..., T, T), in percent: a[..., i, j] is the accuracy on task j after training on
task i; NaN stands for "not evaluated". Formulas count tasks from 1 as the literature does. Nothing is
changed in place; a metric that needs an entry that was not evaluated is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy


def acc(matrix: np.ndarray) -> np.ndarray:
    """Average accuracy after the last task, ACC = mean_j a[T][j]. (..., T, T) -> (...), percent."""
    return _square(matrix)[..., -1, :].mean(-1)


def bwt(matrix: np.ndarray) -> np.ndarray:
    """Backward transfer, BWT = mean_{j<T} (a[T][j] - a[j][j]). (..., T, T) -> (...), percentage points.

    NaN for one task, and where only the last row was evaluated (JOINT has no "just after task j").
    Source: Lopez-Paz & Ranzato 2017 (GEM).
    """
    a = _square(matrix)
    just_learned = np.diagonal(a, axis1=-2, axis2=-1)
    return _mean(a[..., -1, :-1] - just_learned[..., :-1])


def fwt(matrix: np.ndarray, untrained: np.ndarray) -> np.ndarray:
    """Forward transfer, FWT = mean_{j>1} (a[j-1][j] - u[j]). -> (...), percentage points.

    matrix: (..., T, T). untrained: u, (..., T), accuracies of the head before any training, stored
    beside the matrix and not measured later. NaN for one task and for JOINT.
    """
    a, u = _square(matrix), np.asarray(untrained, dtype=float)
    before_learned = np.diagonal(a, offset=1, axis1=-2, axis2=-1)
    return _mean(before_learned - u[..., 1:])


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """Forgetting = mean_{j<T} (max_{i<T} a[i][j] - a[T][j]). (..., T, T) -> (...), percentage points.

    The maximum leaves the last row out, so forgetting is negative where the last task helped; entries
    that were not evaluated do not take part in it. NaN for one task and for JOINT.
    """
    a = _square(matrix)
    earlier = a[..., :-1, :-1]
    if earlier.shape[-1] == 0:
        return np.full(a.shape[:-2], np.nan)
    best = np.where(np.isnan(earlier), -np.inf, earlier).max(-2)
    return _mean(np.where(np.isinf(best), np.nan, best) - a[..., -1, :-1])


def bwt_in_code(matrix: np.ndarray, untrained: np.ndarray) -> np.ndarray:
    """BWT as SHARC's published code computes it: JOINT's is the gain over the untrained head.

    matrix: (..., T, T); untrained: u, (..., T). Where a[j][j] was not evaluated u[j] takes its place; for
    every other method it is `bwt`. Over which tasks the code takes JOINT's mean is not known: here j < T.
    """
    a, u = _square(matrix), np.asarray(untrained, dtype=float)
    just_learned = np.diagonal(a, axis1=-2, axis2=-1)
    just_learned = np.where(np.isnan(just_learned), u, just_learned)
    return _mean(a[..., -1, :-1] - just_learned[..., :-1])


def forgetting_in_code(matrix: np.ndarray) -> np.ndarray:
    """Forgetting as mammoth and SHARC's published code compute it. (..., T, T) -> (...), never negative.

    mean_{j<T} (max_i r[i][j] - a[T][j]) over *all* rows, the last one included, where r[i][j] is a[i][j] up
    to the task that follows i (tested before it is learnt) and 0 beyond. NaN for one task and for JOINT.
    """
    a = _square(matrix)
    tested = np.tril(np.ones(a.shape[-2:], dtype=bool), k=1)
    return _mean(np.where(tested, a, 0.0).max(-2)[..., :-1] - a[..., -1, :-1])


def learning_curve(matrix: np.ndarray) -> np.ndarray:
    """Accuracy over the tasks seen so far, mean_{j<=i} a[i][j] for every i. (..., T, T) -> (..., T)."""
    a = _square(matrix)
    seen = np.tril(np.ones(a.shape[-2:], dtype=bool))
    return np.where(seen, a, 0.0).sum(-1) / seen.sum(-1)


def aia(matrix: np.ndarray) -> np.ndarray:
    """Average incremental accuracy, AIA = mean_i mean_{j<=i} a[i][j]. (..., T, T) -> (...), percent.

    The mean of `learning_curve`; ACC for one task. NaN for JOINT, which is evaluated once.
    Source: Rebuffi et al. 2017 (iCaRL).
    """
    return learning_curve(matrix).mean(-1)


def confidence_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student-t interval of the mean of values (N,): mean -+ t_{N-1} s / sqrt(N). NaN for N < 2."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return np.nan, np.nan
    half = scipy.stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


@dataclass(frozen=True)
class PairedTest:
    """b - a over n pairs: mean, its 95 % Student-t interval, two-sided p-values. NaN where n < 2.

    With n pairs Wilcoxon's exact p cannot fall below 2^(1-n): 0.0625 for five seeds. effect: Cohen's d_z
    (mean over sample deviation of the differences) times Hedges' factor 1 - 3 / (4 (n - 1) - 1), without
    which it is too large for few pairs; NaN where the differences do not vary.
    """

    n: int
    difference: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float
    effect: float


def paired_test(a: np.ndarray, b: np.ndarray) -> PairedTest:
    """Compare b with a pair by pair (same seed). a, b: (N,). Raises ValueError for unequal lengths.

    Differences that are all equal (to rounding error) leave a t test nothing to divide by: p_t is then 1
    for no difference and 0 otherwise. Wilcoxon's test leaves pairs without a difference out.
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
        moved = rounded[rounded != 0]
        p_wilcoxon = float(scipy.stats.wilcoxon(moved).pvalue) if len(moved) else 1.0
    return PairedTest(n, mean, low, high, p_t, p_wilcoxon, effect)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given; NaN stays and does not count.

    The i-th smallest of m is multiplied by m - i + 1; none is below a smaller one's, or above 1.
    """
    order = sorted((i for i, value in enumerate(p) if value == value), key=lambda i: p[i])
    corrected, largest = [float("nan")] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(order) - rank)))
        corrected[i] = largest
    return corrected


def relative_gain(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """mean(b) / mean(a) - 1 over pairs, percent, and its 95 % interval after Fieller. a, b: (N,).

    The interval holds every ratio r that a paired t test of b - r a against 0 does not reject; it is NaN
    for N < 2, and where a itself is not told from 0 (then it would not be bounded).
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
    """Difference b - a of two means of n values each, and its 95 % interval after Welch."""
    share_a, share_b = std_a**2 / n, std_b**2 / n
    difference, error = mean_b - mean_a, np.sqrt(share_a + share_b)
    if error == 0:
        return difference, difference, difference
    freedom = (share_a + share_b) ** 2 * (n - 1) / (share_a**2 + share_b**2)
    half = float(scipy.stats.t.ppf(0.975, freedom) * error)
    return difference, difference - half, difference + half


def _square(matrix: np.ndarray) -> np.ndarray:
    a = np.asarray(matrix, dtype=float)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or a.shape[-1] == 0:
        raise ValueError(f"an accuracy matrix is (..., T, T), not {a.shape}")
    return a


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, NaN (without numpy's warning) when it is empty."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    return values.mean(-1)
