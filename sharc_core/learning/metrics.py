"""Continual-learning metrics: pure functions of accuracy matrices.

A matrix has shape (..., T, T), in percent: a[..., i, j] is the accuracy on task j after training on
task i; NaN means "not evaluated". Formulas count tasks from 1, as the literature does. ACC and AIA are in
percent; the other metrics are differences, in percentage points. A metric is NaN where it needs an entry
that was not evaluated. No function changes its arguments.
"""

from collections.abc import Sequence

import numpy as np


def acc(matrix: np.ndarray) -> np.ndarray:
    """Return ACC = mean_j a[T][j], the mean accuracy after the last task. (..., T, T) -> (...)."""
    return _square(matrix)[..., -1, :].mean(-1)


def acc_weighted(matrix: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return sum_j c_j a[T][j] / sum_j c_j, c = sizes the tasks' numbers of classes. (..., T, T) -> (...).

    With equally many test images per class this is the accuracy on all test images.
    """
    return _curve_weighted(matrix, sizes)[..., -1]


def aia_weighted(matrix: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return mean_i sum_{j<=i} c_j a[i][j] / sum_{j<=i} c_j, AIA as for acc_weighted. (..., T, T) -> (...).

    With equally many test images per class this is AIA over the test images of all classes seen (iCaRL).
    """
    return _curve_weighted(matrix, sizes).mean(-1)


def _curve_weighted(matrix: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    a = _square(matrix)
    weights = np.tril(np.ones(a.shape[-2:])) * np.asarray(sizes, dtype=float)
    return np.where(weights > 0, a * weights, 0.0).sum(-1) / weights.sum(-1)


def bwt(matrix: np.ndarray) -> np.ndarray:
    """Return backward transfer, BWT = mean_{j<T} (a[T][j] - a[j][j]). (..., T, T) -> (...).

    NaN for one task, and where only the last row was evaluated (JOINT has no "just after task j").
    Source: Lopez-Paz & Ranzato 2017 (GEM).
    """
    a = _square(matrix)
    just_learned = np.diagonal(a, axis1=-2, axis2=-1)
    return _mean(a[..., -1, :-1] - just_learned[..., :-1])


def fwt(matrix: np.ndarray, untrained: np.ndarray) -> np.ndarray:
    """Return forward transfer, FWT = mean_{j>1} (a[j-1][j] - u[j]). (..., T, T) -> (...).

    matrix: (..., T, T). untrained: u, (..., T), the accuracies of the head before training. NaN for one task
    and for JOINT.
    """
    a, u = _square(matrix), np.asarray(untrained, dtype=float)
    before_learned = np.diagonal(a, offset=1, axis1=-2, axis2=-1)
    return _mean(before_learned - u[..., 1:])


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """Return forgetting, mean_{j<T} (max_{i<T} a[i][j] - a[T][j]). (..., T, T) -> (...).

    The maximum excludes the last row, so forgetting is negative where the last task raised the accuracy. It
    ignores entries that were not evaluated. NaN for one task and for JOINT.
    """
    a = _square(matrix)
    earlier = a[..., :-1, :-1]
    if earlier.shape[-1] == 0:
        return np.full(a.shape[:-2], np.nan)
    best = np.where(np.isnan(earlier), -np.inf, earlier).max(-2)
    return _mean(np.where(np.isinf(best), np.nan, best) - a[..., -1, :-1])


def bwt_in_code(matrix: np.ndarray, untrained: np.ndarray) -> np.ndarray:
    """Return BWT as SHARC's published code computes it: for JOINT the gain over the untrained head.

    matrix: (..., T, T); untrained: u, (..., T). Where a[j][j] was not evaluated (JOINT), u[j] replaces it;
    elsewhere it equals `bwt`. It is unknown over which tasks the code averages for JOINT; here j < T.
    """
    a, u = _square(matrix), np.asarray(untrained, dtype=float)
    just_learned = np.diagonal(a, axis1=-2, axis2=-1)
    just_learned = np.where(np.isnan(just_learned), u, just_learned)
    return _mean(a[..., -1, :-1] - just_learned[..., :-1])


def forgetting_in_code(matrix: np.ndarray) -> np.ndarray:
    """Return forgetting as mammoth and SHARC's code compute it, never negative. (..., T, T) -> (...).

    mean_{j<T} (max_i r[i][j] - a[T][j]) over *all* rows, including the last, where r[i][j] is a[i][j] for
    j <= i + 1 (the next task is tested before it is learned) and 0 for later tasks. NaN for one task and for
    JOINT.
    """
    a = _square(matrix)
    tested = np.tril(np.ones(a.shape[-2:], dtype=bool), k=1)
    return _mean(np.where(tested, a, 0.0).max(-2)[..., :-1] - a[..., -1, :-1])


def learning_curve(matrix: np.ndarray) -> np.ndarray:
    """Return the accuracy on the tasks seen, mean_{j<=i} a[i][j] for each i. (..., T, T) -> (..., T)."""
    a = _square(matrix)
    seen = np.tril(np.ones(a.shape[-2:], dtype=bool))
    return np.where(seen, a, 0.0).sum(-1) / seen.sum(-1)


def aia(matrix: np.ndarray) -> np.ndarray:
    """Return average incremental accuracy, AIA = mean_i mean_{j<=i} a[i][j]. (..., T, T) -> (...).

    This is the mean of `learning_curve`, equal to ACC for one task. NaN for JOINT, which is evaluated once.
    Source: Rebuffi et al. 2017 (iCaRL).
    """
    return learning_curve(matrix).mean(-1)


def _square(matrix: np.ndarray) -> np.ndarray:
    a = np.asarray(matrix, dtype=float)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or a.shape[-1] == 0:
        raise ValueError(f"an accuracy matrix is (..., T, T), not {a.shape}")
    return a


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis; NaN, without numpy's warning, where it is empty."""
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)
    return values.mean(-1)
