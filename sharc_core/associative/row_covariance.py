"""Row covariance of a matrix-normal posterior, cheap while few rows have been learnt."""

from sharc_core.common.deferred import torch


class RowCovariance:
    """U (m, m) float64, applied to rows: Z U, S = Z U Z^T + sigma^2 I, and the diagonal of S.

    The prior is a multiple of I, and r learnt rows subtract a matrix of rank r from it. While r is small, the
    form U = prior I - H^T H with H (r, m) costs 2 m r per row instead of m^2. A GPU uses U itself, because
    there the number of operations matters more than their size. So does a stack U (G, m, m), one for each
    batch of rows.
    """

    def __init__(self, covariance: torch.Tensor, prior: float, variance: float):
        self.dense, self.prior, self.variance = covariance, prior, variance
        is_alone = covariance.device.type == "cpu" and covariance.ndim == 2
        self.taken = taken_from(prior, covariance) if is_alone else None
        if self.taken is not None:
            self.taken = self.taken[None]
            self.turned = self.taken.mT
        self.noise = covariance.new_empty(0, 0)

    @property
    def flops(self) -> int:
        """Operations of the decomposition, where row r of H takes a product with r rows.

        A decomposition that is given up, after at most m^3 / 16 operations, counts as 0.
        """
        if self.taken is None:
            return 0
        rank, size = self.taken.shape[1:]
        return rank * (rank - 1) * size

    def of(self, chosen: torch.Tensor) -> "RowCovariance":
        """Return the covariances of the batches `chosen` (G,) bool."""
        if self.dense.ndim == 2:
            return self
        return RowCovariance(self.dense[chosen], self.prior, self.variance)

    def spread(self, z: torch.Tensor) -> torch.Tensor:
        """Return Z U (G, n, m) of z (G, n, m)."""
        if self.taken is None:
            return z @ self.dense
        taken, turned = self.taken, self.turned
        if z.shape[0] > 1:
            taken, turned = taken.expand(z.shape[0], -1, -1), turned.expand(z.shape[0], -1, -1)
        return torch.baddbmm(z, torch.bmm(z, turned), taken, beta=self.prior, alpha=-1)

    def coupled(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Z U (G, n, m) and S (G, n, n) of z (G, n, m)."""
        if self.noise.shape[0] != z.shape[1]:
            self.noise = self.variance * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        spread = self.spread(z)
        return spread, torch.baddbmm(self.noise, spread, z.mT)

    def alone(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Z U (G, n, m) and the diagonal of S (G, n, 1) of z (G, n, m)."""
        spread = self.spread(z)
        return spread, (spread * z).sum(2, keepdim=True).add_(self.variance)


def taken_from(prior: float, covariance: torch.Tensor) -> torch.Tensor | None:
    """Return H (r, m) with prior I - H^T H = covariance (m, m) up to rounding; None if r would exceed m / 4.

    This is a pivoted Cholesky decomposition of prior I - U, whose eigenvalues are between 0 and the prior. It
    ends when the rest of the diagonal is at most m eps times the prior, similar to LAPACK's default (dpstrf).
    Also returns None if the matrix is not positive semi-definite, for example with a wrong `prior`.
    """
    size = len(covariance)
    rest = -covariance
    rest.diagonal().add_(prior)
    factor, left = covariance.new_empty(size // 4, size), rest.diagonal().clone()
    rounding = size * torch.finfo(rest.dtype).eps * prior
    if left.sum() > prior * len(factor):  # no eigenvalue exceeds the prior, so the rank exceeds m / 4
        return None
    for count in range(len(factor) + 1):
        pivot = int(left.argmax())
        if left[pivot] <= rounding:
            return factor[:count] if left.min() >= -rounding else None
        if count < len(factor):
            row = rest[pivot] - factor[:count, pivot] @ factor[:count]
            factor[count] = row / left[pivot].sqrt()
            left -= factor[count].square()
    return None
