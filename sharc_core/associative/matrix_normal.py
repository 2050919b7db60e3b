"""One layer of a BayesPCN: Bayesian linear regression with a matrix-normal posterior over its weights.

x | z ~ N(z W, sigma^2 I) for rows z (m,) and x (d,), W ~ MN(R, U, I) with mean R (m, d) and row covariance
U (m, m). Three log densities of a batch X (n, d) given Z (n, m) are used:

- coupled: the weights integrate out to X ~ MN(Z R, S, I), with S = Z U Z^T + sigma^2 I (n, n);
- alone: each row is a batch of one, x ~ N(z R, v I) with v = z U z^T + sigma^2;
- MAP: the weights are taken at their mean, x ~ N(z R, sigma^2 I).

An optimisation over Z needs three Gram matrices of the data: X X^T (n, n), X R^T (n, m) and R R^T (m, m),
over all columns or only the observed ones. A step then costs m^2 per row for any d. Z U costs at most as much
(see row_covariance.py).
"""

import math
from dataclasses import dataclass
from typing import Any

from sharc_core.associative.row_covariance import RowCovariance
from sharc_core.common.deferred import torch

BLOCK = 1024  # columns converted to float64 at a time; this many fit a processor's cache
GPU_BLOCK = 2**14  # on a GPU, where the start of an operation takes longer than the operation on such a block
PARTS = 4  # groups of columns of a Gram matrix; entries above their diagonal blocks are mirrored
LOG_TWO_PI = math.log(2 * math.pi)


@dataclass
class Noise:
    """Covariance of X - Z R over the rows of G batches, given Z (G, n, m).

    precision: S^-1 (G, n, n) if coupled, 1 / v (G, n, 1) if alone, the number 1 / sigma^2 for MAP.
    log_det: log det S (G, 1), log v (G, n) or the number log sigma^2. spread: Z U; None for MAP.
    """

    coupled: bool
    precision: Any
    log_det: Any
    spread: torch.Tensor | None

    @classmethod
    def of(cls, z: torch.Tensor, covariance: RowCovariance | None, variance: float, coupled: bool) -> "Noise":
        """Return the noise given z (G, n, m). covariance: None for MAP, which never couples rows.

        variance: sigma^2.
        """
        if covariance is None:
            return cls(False, 1 / variance, math.log(variance), None)
        if not coupled:
            spread, v = covariance.alone(z)
            return cls(False, 1 / v, v.squeeze(2).log(), spread)
        spread, s = covariance.coupled(z)
        factor = torch.linalg.cholesky_ex(s).L  # the factor exists, because S >= sigma^2 I
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        return cls(True, torch.cholesky_inverse(factor), log_det, spread)

    def weigh(self, residual: torch.Tensor) -> torch.Tensor:
        """Return precision times X - Z R (G, n, k), which is minus the gradient of the log density by X."""
        return torch.bmm(self.precision, residual) if self.coupled else residual * self.precision

    def log_density(
        self, fit: torch.Tensor, error: torch.Tensor, columns: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log density of X given Z, (G, 1) if coupled, else (G, n); and its gradient by Z.

        fit: (X - Z R) R^T (G, n, m). error: (X - Z R)(X - Z R)^T (G, n, n) if coupled, else its diagonal
        (G, n). columns: number of columns of X, observed or not.
        """
        if self.coupled:
            assert self.spread is not None
            weighted = torch.bmm(self.precision, error)
            pull = torch.baddbmm(self.precision, weighted, self.precision, beta=-columns)
            gradient = torch.baddbmm(torch.bmm(self.precision, fit), pull, self.spread)
            constant = columns * LOG_TWO_PI * fit.shape[1]
            return -(columns * self.log_det + _trace(weighted) + constant) / 2, gradient
        precision = self.precision if self.spread is None else self.precision.squeeze(2)
        weighted, gradient = error * precision, fit * self.precision
        if self.spread is not None:
            gradient.addcmul_(((weighted - columns) * precision).unsqueeze(2), self.spread)
        return -(columns * (self.log_det + LOG_TWO_PI) + weighted) / 2, gradient


@dataclass
class Grams:
    """Gram matrices of G batches of n rows: xx (G, n, n), xr (G, n, m), rr (m, m) or (G, m, m), all float64.

    columns: number of columns of X, observed or not. It is the weight of log det S.
    """

    xx: torch.Tensor
    xr: torch.Tensor
    rr: torch.Tensor
    columns: int

    @classmethod
    def stack(cls, parts: list["Grams"]) -> "Grams":
        """Stack batches of the same size, each with a matrix rr (1, m, m) of its own."""
        xx, xr, rr = (torch.cat([getattr(part, name) for part in parts]) for name in ("xx", "xr", "rr"))
        return cls(xx, xr, rr, parts[0].columns)

    def of(self, chosen: torch.Tensor) -> "Grams":
        """Return the Gram matrices of the batches `chosen` (G,) bool."""
        rr = self.rr if self.rr.ndim == 2 else self.rr[chosen]
        return Grams(self.xx[chosen], self.xr[chosen], rr, self.columns)

    def updated(self, z: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """Return (R + G D)(R + G D)^T for D = X - Z R of the first batch, from R R^T, D R^T and D D^T."""
        cross, rr = self.xr[0], self.rr[0]
        to_old = cross - z @ rr  # D R^T
        error = self.xx[0] - cross @ z.T - z @ to_old.T  # D D^T
        half = gain @ to_old
        return rr + half + half.T + gain @ ((error + error.T) / 2) @ gain.T

    def fit(self, z: torch.Tensor) -> torch.Tensor:
        """Return (X - Z R) R^T (G, n, m) of z (G, n, m)."""
        if self.rr.ndim == 2:  # one product for all batches
            return self.xr - z @ self.rr
        return torch.baddbmm(self.xr, z, self.rr, alpha=-1)

    def products(self, z: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `fit` and `error` of z (G, n, m), as for Noise.log_density."""
        fit = self.fit(z)
        if not noise.coupled:
            return fit, self.xx.diagonal(dim1=-2, dim2=-1) - (z * (self.xr + fit)).sum(2)
        # E = XX - XR Z^T - Z XR^T + Z RR Z^T as two products, so that no third of size m^2 is needed
        error = torch.baddbmm(self.xx, z, self.xr.mT, alpha=-1)
        return fit, torch.baddbmm(error, fit, z.mT, alpha=-1)


def _trace(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)


def gain_of(z: torch.Tensor, covariance: torch.Tensor, variance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gain U Z^T S^-1 (m, n) of observations at Z (n, m), and the posterior covariance (m, m).

    The covariance is U - T^T T with T = L^-1 Z U and S = L L^T. It is made symmetric to the last bit, because
    a product T^T T may not be. The factor L exists because S >= sigma^2 I. All tensors are float64.
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
    """Return R R^T (m, m) float64, exactly symmetric, of weights (m, d), over all or the given columns."""
    total = weights.new_zeros(len(weights), len(weights), dtype=torch.float64)
    rows = range(0, len(weights), -(-len(weights) // PARTS))
    for block in _blocks(weights, columns):
        for start, part in zip(rows, block.split(rows.step), strict=True):
            total[start:, start : start + rows.step].addmm_(block[start:], part.T)
    return total.tril() + total.tril(-1).T


def gram_flops(m: int, d: int) -> int:
    """Return the operations of `gram_of` for weights (m, d)."""
    size = -(-m // PARTS)
    return 2 * d * sum((m - start) * min(size, m - start) for start in range(0, m, size))


def cross_of(
    x: torch.Tensor, weights: torch.Tensor, columns: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return X R^T (n, m) and X (n, k) in float64, over all columns or the k given ones."""
    cross = weights.new_zeros(len(x), len(weights), dtype=torch.float64)
    x = (x if columns is None else x[:, columns]).double()
    start = 0
    for block in _blocks(weights, columns):
        stop = start + block.shape[1]
        cross.addmm_(x[:, start:stop], block.T)
        start = stop
    return cross, x


def _blocks(weights: torch.Tensor, columns: torch.Tensor | None):
    """Yield column blocks of the weights in float64, small enough for a processor's cache."""
    size = _block_size(weights)
    if columns is None:
        for start in range(0, weights.shape[1], size):
            yield weights[:, start : start + size].double()
    else:
        for part in columns.split(size):
            yield weights[:, part].double()


def _block_size(weights: torch.Tensor) -> int:
    return BLOCK if weights.device.type == "cpu" else GPU_BLOCK


def learn_rows(
    weights: torch.Tensor,
    x: torch.Tensor,
    z: torch.Tensor,
    gain: torch.Tensor,
    then: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Add gain (X - Z R) to R in place: weights (m, d) any type, x (n, d), z (n, m), gain (m, n) float64.

    then: rows (k, d) whose products with the new R are returned, (k, m) float64; None without. Computing them
    here avoids a second pass over R, whose blocks are in float64 already.
    """
    cross = None if then is None else gain.new_zeros(len(then), len(weights))
    size = _block_size(weights)
    for start in range(0, weights.shape[1], size):
        part = slice(start, start + size)
        block = weights[:, part].double()
        weights[:, part] = block.addmm_(gain, x[:, part].double() - z @ block)
        if cross is not None and then is not None:
            cross.addmm_(then[:, part].double(), block.T)
    return cross
