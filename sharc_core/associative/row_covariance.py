"""Row covariance of a matrix-normal posterior, cheap for as long as few rows have been learnt."""

import torch


class RowCovariance:
    """U (m, m), float64, applied to rows: Z U, S = Z U Z^T + sigma^2 I, and the diagonal of S.

    The prior is a multiple of I, and r rows learnt take from it a matrix of rank r. While that is small,
    U = prior I - H^T H with H (r, m) costs 2 m r a row instead of m^2. A GPU takes U itself: there it is
    the number of operations that counts, not their size.
    """

    def __init__(self, covariance: torch.Tensor, prior: float, variance: float):
        self.dense, self.prior, self.variance = covariance, prior, variance
        self.taken = taken_from(prior, covariance) if covariance.device.type == "cpu" else None
        if self.taken is not None:
            self.taken = self.taken[None]
            self.turned = self.taken.mT
        self.noise = covariance.new_empty(0, 0)

    def spread(self, z: torch.Tensor) -> torch.Tensor:
        """Z U of z (G, n, m)."""
        if self.taken is None:
            return z @ self.dense
        taken, turned = self.taken, self.turned
        if z.shape[0] > 1:
            taken, turned = taken.expand(z.shape[0], -1, -1), turned.expand(z.shape[0], -1, -1)
        return torch.baddbmm(z, torch.bmm(z, turned), taken, beta=self.prior, alpha=-1)

    def coupled(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Z U and S (G, n, n) of z (G, n, m)."""
        if self.noise.shape[0] != z.shape[1]:
            self.noise = self.variance * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        spread = self.spread(z)
        return spread, torch.baddbmm(self.noise, spread, z.mT)

    def alone(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Z U and the diagonal of S, (G, n, 1), of z (G, n, m)."""
        spread = self.spread(z)
        return spread, (spread * z).sum(2, keepdim=True).add_(self.variance)


def taken_from(prior: float, covariance: torch.Tensor) -> torch.Tensor | None:
    """H (r, m) with prior I - H^T H = covariance (m, m) to rounding; None if r would exceed m / 4.

    Pivoted Cholesky decomposition of prior I - U, whose eigenvalues are between 0 and the prior. It ends
    where LAPACK's (dpstrf) does by default: what is left of the diagonal is below m eps of the largest.
    None, too, where that matrix is not positive semi-definite, as if `prior` were another one's.
    """
    size = len(covariance)
    rest = -covariance
    rest.diagonal().add_(prior)
    found, left = covariance.new_empty(size // 4, size), rest.diagonal().clone()
    rounding = size * torch.finfo(rest.dtype).eps * prior
    if left.sum() > prior * len(found):  # no eigenvalue exceeds the prior: more than that are not zero
        return None
    for count in range(len(found) + 1):
        pivot = int(left.argmax())
        if left[pivot] <= rounding:
            return found[:count] if left.min() >= -rounding else None
        if count < len(found):
            row = rest[pivot] - found[:count, pivot] @ found[:count]
            found[count] = row / left[pivot].sqrt()
            left -= found[count].square()
    return None
