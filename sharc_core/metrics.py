"""Continual-learning metrics: pure functions from accuracy matrices to numbers.

A matrix has shape (..., T, T), in percent: a[..., i, j] is the accuracy on task j after training on
task i; NaN stands for "not evaluated". Formulas count tasks from 1 as the literature does. Nothing is
changed in place; a metric that needs an entry that was not evaluated is NaN.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats


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


def learning_curve(matrix: np.ndarray) -> np.ndarray:
    """Accuracy over the tasks seen so far, mean_{j<=i} a[i][j] for every i. (..., T, T) -> (..., T)."""
    a = _square(matrix)
    seen = np.tril(np.ones(a.shape[-2:], dtype=bool))
    return np.where(seen, a, 0.0).sum(-1) / seen.sum(-1)


def confidence_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student-t interval of the mean of values (N,): mean -+ t_{N-1} s / sqrt(N). NaN for N < 2."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


@dataclass(frozen=True)
class PairedTest:
    """b - a over n pairs: mean, its 95 % Student-t interval, two-sided p-values. NaN where n < 2.

    With n pairs Wilcoxon's exact p cannot fall below 2^(1-n): 0.0625 for five seeds.
    """

    n: int
    difference: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float


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
    p_t = p_wilcoxon = np.nan
    if n >= 2 and not np.isnan(mean):
        rounded = difference.round(9)
        constant = np.ptp(rounded) == 0
        p_t = float(rounded[0] == 0) if constant else float(stats.ttest_1samp(difference, 0).pvalue)
        moved = rounded[rounded != 0]
        p_wilcoxon = float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0
    return PairedTest(n, mean, low, high, p_t, p_wilcoxon)


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
