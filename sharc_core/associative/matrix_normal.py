"""One layer of a BayesPCN: Bayesian linear regression with a matrix-normal posterior over its weights.

x | z ~ N(z W, sigma^2 I) for rows z (m,) and x (d,), W ~ MN(R, U, I) with mean R (m, d) and row covariance
U (m, m). For a batch Z (n, m), X (n, d) the weights integrate out to X ~ MN(Z R, S, I), with
S = Z U Z^T + sigma^2 I (n, n): rows of a batch are coupled.

What an optimisation over Z needs of the data are three Gram matrices: X X^T (n, n), X R^T (n, m) and
R R^T (m, m), over all columns or only the observed ones. With them a step costs m^2 per row whatever d.
Z U costs as much, or less (see row_covariance.py).
"""

import math
from dataclasses import dataclass

import torch

from sharc_core.associative.row_covariance import RowCovariance

BLOCK = 1024  # columns converted to float64 at a time: so many stay in a processor's cache
PARTS = 4  # groups of columns of a Gram matrix; what lies above their blocks is mirrored, not computed


@dataclass
class Grams:
    """G batches of n rows. xx (G, n, n), xr (G, n, m), rr (m, m) or (G, m, m), all float64.

    columns: number of columns of X, observed or not: it weighs log det S.
    """

    xx: torch.Tensor
    xr: torch.Tensor
    rr: torch.Tensor
    columns: int

    def of(self, chosen: torch.Tensor) -> "Grams":
        """Those of some batches: chosen (G,) bool."""
        rr = self.rr if self.rr.ndim == 2 else self.rr[chosen]
        return Grams(self.xx[chosen], self.xr[chosen], rr, self.columns)

    def fit(self, z: torch.Tensor) -> torch.Tensor:
        """(X - Z R) R^T of z (G, n, m)."""
        if self.rr.ndim == 2:  # one product for all batches
            return self.xr - z @ self.rr
        return torch.baddbmm(self.xr, z, self.rr, alpha=-1)


def log_joint(
    z: torch.Tensor,
    grams: Grams,
    covariance: RowCovariance | None,
    variance: float,
    with_value: bool = True,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Log probability (up to a constant) of X given Z, (G,), and its gradient by Z, (G, n, m).

    With E = (X - Z R)(X - Z R)^T = XX - XR Z^T - Z XR^T + Z RR Z^T it is
    -(d log det S + tr(S^-1 E)) / 2. S is as above (predictive) or, without a covariance, sigma^2 I (MAP).
    with_value: False saves the value (None then), which an optimiser need not know.
    """
    zt = z.mT
    fit = grams.fit(z)
    if covariance is None:
        value = None
        if with_value:
            trace = _trace(grams.xx - (z @ grams.xr.mT) - (fit @ zt))
            value = -(grams.columns * z.shape[1] * math.log(variance) + trace / variance) / 2
        return value, fit / variance
    # E written as two products, so that no third of size m^2 is needed
    error = torch.baddbmm(torch.baddbmm(grams.xx, z, grams.xr.mT, alpha=-1), fit, zt, alpha=-1)
    spread, s = covariance.coupled(z)
    factor = torch.linalg.cholesky_ex(s).L  # S is at least sigma^2 I: it has a factor
    inverse = torch.cholesky_inverse(factor)
    weighted = torch.bmm(inverse, error)
    pull = torch.baddbmm(inverse, weighted, inverse, beta=-grams.columns)
    gradient = torch.baddbmm(torch.bmm(inverse, fit), pull, spread)
    if not with_value:
        return None, gradient
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -(grams.columns * log_det + _trace(weighted)) / 2, gradient


def _trace(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def gain_of(z: torch.Tensor, covariance: torch.Tensor, variance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Kalman-like gain U Z^T S^-1 (m, n) of observations at Z (n, m), and the posterior covariance.

    The covariance is U - T^T T with T = L^-1 Z U, S = L L^T, and made symmetric to the last bit (a product
    T^T T need not be); as S is at least sigma^2 I its factor does not fail. float64.
    """
    spread = z @ covariance
    s = spread @ z.T
    s.diagonal().add_(variance)
    factor = torch.linalg.cholesky(s)
    half = torch.linalg.solve_triangular(factor, spread, upper=False)
    gain = torch.linalg.solve_triangular(factor.T, half, upper=True).T
    covariance = covariance - half.T @ half
    return gain, (covariance + covariance.T) / 2


def gram_of(weights: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
    """R R^T (m, m) in float64 of weights (m, d), over all columns or the given ones; exactly symmetric."""
    total = weights.new_zeros(len(weights), len(weights), dtype=torch.float64)
    rows = range(0, len(weights), -(-len(weights) // PARTS))
    for block in _blocks(weights, columns):
        for start, part in zip(rows, block.split(rows.step), strict=True):
            total[start:, start : start + rows.step].addmm_(block[start:], part.T)
    return total.tril() + total.tril(-1).T


def cross_of(
    x: torch.Tensor, weights: torch.Tensor, columns: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """X R^T (n, m) and X (n, d) in float64, over all columns or the given ones."""
    cross = weights.new_zeros(len(x), len(weights), dtype=torch.float64)
    x = (x if columns is None else x[:, columns]).double()
    start = 0
    for block in _blocks(weights, columns):
        stop = start + block.shape[1]
        cross.addmm_(x[:, start:stop], block.T)
        start = stop
    return cross, x


def _blocks(weights: torch.Tensor, columns: torch.Tensor | None):
    """Column blocks of the weights in float64: they stay in the cache, the whole would not."""
    if columns is None:
        for start in range(0, weights.shape[1], BLOCK):
            yield weights[:, start : start + BLOCK].double()
    else:
        for part in columns.split(BLOCK):
            yield weights[:, part].double()


def learn_rows(
    weights: torch.Tensor,
    x: torch.Tensor,
    z: torch.Tensor,
    gain: torch.Tensor,
    then: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """R += gain (X - Z R) in place: weights (m, d) any type, x (n, d), z (n, m), gain (m, n) float64.

    then (k, d): rows whose products with the new R are returned, (k, m) float64: R, of which every block is
    at hand in float64 here, is not read again for them.
    """
    cross = None if then is None else gain.new_zeros(len(then), len(weights))
    for start in range(0, weights.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        block = weights[:, part].double()
        weights[:, part] = block.addmm_(gain, x[:, part].double() - z @ block)
        if cross is not None:
            cross.addmm_(then[:, part].double(), block.T)
    return cross
