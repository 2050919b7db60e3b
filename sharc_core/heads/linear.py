"""A linear classifier on pooled features."""

from sharc_core.common.deferred import torch
from sharc_core.heads.base import Head, Loss, expected_squares


class LinearHead(Head):
    """logits = x W^T + b, for W (R, C, D)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, replicas: int, features: int, classes: int, device: torch.device | str = "cpu"):
        super().__init__({"weight": (classes, features), "bias": (classes,)}, replicas, device)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (R, B, C) of x (R, B, D)."""
        self.flops.shared += self.sample_flops * x.shape[1]
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (R, B, D) itself."""
        return x

    def input_gradient(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Return d(slope . logits)/dx, (R, B, D), for slope (R, B, C): rows of W for one-hot slopes."""
        self.flops.shared += self.sample_flops * x.shape[1]
        return slope @ self.weight

    def channel_effects(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return f^c(x) - f^c(x with x_k = 0), (R, B, D): what feature k adds to the true class's logit."""
        return x * self.weight.gather(1, y.unsqueeze(2).expand(-1, -1, x.shape[2]))

    def _accumulate(self, into: dict[str, torch.Tensor], loss: Loss, scale: float) -> None:
        for x, slope, weight in loss.terms:
            self.flops.shared += self.sample_flops * x.shape[1]
            into["weight"].baddbmm_(slope.mT, x, alpha=scale * weight)
            into["bias"].add_(slope.sum(1), alpha=scale * weight)

    def _accumulate_fisher(self, into, x, p, y):
        self.flops.shared += self.sample_flops * x.shape[1]
        squares, _ = expected_squares(p, y)
        into["weight"].baddbmm_(squares.mT, x.square())
        into["bias"].add_(squares.sum(1))

    def descend(self, loss: Loss, lr: float) -> None:
        """Take one step of plain SGD, without building the gradient first."""
        self.flops.samples += loss.samples
        for x, slope, weight in loss.terms:
            self.flops.shared += self.sample_flops * x.shape[1]
            self.weight.baddbmm_(slope.mT, x, alpha=-lr * weight)
            self.bias.sub_(slope.sum(1), alpha=lr * weight)
