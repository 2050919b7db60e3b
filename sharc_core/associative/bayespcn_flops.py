"""Formulas for the operations of BayesPCN's matrix products (see sharc_core.common.flops).

m: hidden units, d: size of a map, n: rows of a batch, G: batches that advance together.
"""

from collections.abc import Sequence

from sharc_core.associative.cues import Cues
from sharc_core.associative.matrix_normal import Grams
from sharc_core.associative.row_covariance import RowCovariance


def update_flops(n: int, m: int, sizes: Sequence[int], then: int | None) -> int:
    """Return the operations of the conjugate updates of all layers with n rows.

    sizes: of the layer that each layer predicts. then: rows whose products with the new bottom weights are
    computed, besides the new R R^T; None without either.
    """
    gain = 2 * n * m * m + n * n * m  # Z U, T^T T and S; triangular solves are left out
    total = sum(gain + 2 * n * m * size for size in sizes)
    if then is not None:
        total += 3 * n * m * m + 3 * n * n * m + then * m * sizes[0]
    return 2 * total


def step_flops(
    bottom: Grams | Cues, covariances: Sequence[RowCovariance | None], shape: Sequence[int], coupled: bool
) -> int:
    """Return the operations of one evaluation of the log joint and its gradient, without those of Cues.

    covariances: of each layer, None for log_joint "map". shape: (G, n, m) of the lowest hidden layer.
    coupled: whether rows are coupled, if the log joint is predictive.
    """
    batches, n, m = shape
    total = 0
    for level, covariance in enumerate(covariances):
        if covariance is not None:
            total += n * m * (m if covariance.taken is None else 2 * covariance.taken.shape[1])  # Z U
        if coupled and covariance is not None:
            total += n * n * m + 2 * n**3 + 2 * n * n * m  # S; S^-1 with E, twice, with the fit and with Z U
        if level:
            total += 2 * n * m * m  # the residual, and its product with the weights
        elif not isinstance(bottom, Cues):
            total += n * m * m
        if coupled and covariance is not None and (level or not isinstance(bottom, Cues)):
            total += 2 * n * n * m  # E; above the bottom also S^-1 times the residual
    return 2 * batches * total
