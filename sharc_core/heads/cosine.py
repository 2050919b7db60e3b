"""A cosine classifier with a learnable scale (LUCIR, Hou et al. 2019, CVPR)."""

from typing import ClassVar

from sharc_core.common.deferred import torch
from sharc_core.heads.base import SHORTEST, Head, Loss, expected_squares


class CosineHead(Head):
    """logits = s cos(x, w_c), for directions w_c (R, C, D) and one scale s (R, 1) per replica.

    Lengths of weights and features do not matter, so that classes with more or later samples are not favoured
    by longer weights. There is no bias. With u = x / |x|, v_c = w_c / |w_c| and g the slope of a loss by the
    logits, the gradients are

        dL/dw_c = s / |w_c| (sum_b g_bc u_b - v_c sum_b g_bc cos_bc)
        dL/ds = sum_bc g_bc cos_bc
        dL/dx_b = s / |x_b| (sum_c g_bc v_c - u_b sum_c g_bc cos_bc)
    """

    has_lengths = False
    misfits: ClassVar[dict[str, str]] = {
        "integrated_gradients": "its logits do not depend on the length of features, so that the integral "
        "from a zero baseline does not exist"
    }
    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        replicas: int,
        features: int,
        classes: int,
        device: torch.device | str = "cpu",
        scale: float = 1.0,
    ):
        self.initial_scale = scale
        super().__init__({"weight": (classes, features), "scale": (1,)}, replicas, device)

    def copy(self) -> "CosineHead":
        """Return an independent head with the same parameters and the same counter of operations."""
        twin = super().copy()
        assert isinstance(twin, CosineHead)
        twin.initial_scale = self.initial_scale
        return twin

    def initialise(self, seeds: list[int]) -> None:
        """Draw the directions as a linear head's weights; set the scale to its initial value."""
        self._draw(seeds, ["weight"])
        self.scale.fill_(self.initial_scale)

    @property
    def classes(self) -> int:
        """C, the number of classes of the whole stream."""
        return self.shapes["weight"][0]

    @property
    def embedding_width(self) -> int:
        """D, the width of the pooled features, which the only layer gets."""
        return self.features

    def _cosines(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return u (R, B, D), v (R, C, D) and their cosines (R, B, C)."""
        self.flops.shared += self.sample_flops * x.shape[1]
        u, v = x / _lengths(x), self.weight / _lengths(self.weight)
        return u, v, u @ v.mT

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (R, B, C) of x (R, B, D)."""
        return self.scale.unsqueeze(1) * self._cosines(x)[2]

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (R, B, D) itself."""
        return x

    def input_gradient(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Return d(slope . logits)/dx, (R, B, D), for slope (R, B, C)."""
        u, v, cosines = self._cosines(x)
        self.flops.shared += self.sample_flops * x.shape[1]
        along = (slope * cosines).sum(2, keepdim=True)
        return (slope @ v - u * along) * (self.scale.unsqueeze(1) / _lengths(x))

    def channel_effects(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return f^c(x) - f^c(x with x_k = 0), (R, B, D): what feature k adds to the true class's logit.

        Product and squared length without feature k are sums over the others. They are not differences from
        the complete sums, which lose all digits where one feature is much larger than the rest.
        """
        v = self.weight / _lengths(self.weight)
        v = v.gather(1, y.unsqueeze(2).expand(-1, -1, x.shape[2]))
        parts = x * v
        without = _sums_of_others(parts) / _sums_of_others(x.square()).sqrt().clamp_min(SHORTEST)
        return self.scale.unsqueeze(1) * (parts.sum(2, keepdim=True) / _lengths(x) - without)

    def _accumulate(self, into: dict[str, torch.Tensor], loss: Loss, scale: float) -> None:
        # Compute all gradients before writing: `into` may be the parameters themselves.
        steps = []
        for x, slope, weight in loss.terms:
            u, v, cosines = self._cosines(x)
            self.flops.shared += self.sample_flops * x.shape[1]
            along = slope * cosines
            across = slope.mT @ u - v * along.sum(1).unsqueeze(2)
            factor = self.scale.unsqueeze(2) / _lengths(self.weight)
            steps.append((across * factor, along.sum((1, 2)).unsqueeze(1), scale * weight))
        for by_weight, by_scale, alpha in steps:
            into["weight"].add_(by_weight, alpha=alpha)
            into["scale"].add_(by_scale, alpha=alpha)

    def _accumulate_fisher(self, into, x, p, y):
        u, v, cosines = self._cosines(x)
        squares, slope = expected_squares(p, y)
        self.flops.shared += 2 * self.sample_flops * x.shape[1]
        # the square of u_k - v_ck cos, weighted by that of the slope and summed over samples
        by_weight = squares.mT @ u.square() - 2 * v * ((squares * cosines).mT @ u)
        by_weight += v.square() * (squares * cosines.square()).sum(1).unsqueeze(2)
        factor = (self.scale.unsqueeze(2) / _lengths(self.weight)).square()
        into["weight"].add_(by_weight.clamp_min_(0) * factor)
        if slope is not None:
            by_scale = (slope * cosines).sum(2).square()
        else:  # the variance of cos_y over labels y drawn from p
            by_scale = ((p * cosines.square()).sum(2) - (p * cosines).sum(2).square()).clamp_min_(0)
        into["scale"].add_(by_scale.sum(1, keepdim=True))


def _lengths(vectors: torch.Tensor) -> torch.Tensor:
    """Return the lengths (..., 1) of vectors (..., D), never zero."""
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(SHORTEST)


def _sums_of_others(values: torch.Tensor) -> torch.Tensor:
    """Return, for each entry of values (..., D), the sum of all others, in log2 D additions of tensors.

    It is the sum of what stands before the entry and of what stands after it. `torch.cumsum` has no
    deterministic kernel on a GPU.
    """
    return _sums_before(values) + _sums_before(values.flip(-1)).flip(-1)


def _sums_before(values: torch.Tensor) -> torch.Tensor:
    """Return, for each entry of values (..., D), the sum of the entries before it (a scan by doubling)."""
    sums, shift = torch.nn.functional.pad(values, (1, -1)), 1
    while shift < values.shape[-1]:
        sums = sums + torch.nn.functional.pad(sums, (shift, -shift))
        shift *= 2
    return sums
