"""A classifier with one hidden layer on pooled features."""

from sharc_core.common.deferred import torch
from sharc_core.heads.base import Head, Loss, expected_squares

EFFECT_FLOATS = 2**23  # hidden values held at a time while features are removed one by one


class MLPHead(Head):
    """One hidden ReLU layer on the pooled features."""

    output = "weight2"
    weight1: torch.Tensor
    bias1: torch.Tensor
    weight2: torch.Tensor
    bias2: torch.Tensor

    def __init__(
        self, replicas: int, features: int, classes: int, hidden: int, device: torch.device | str = "cpu"
    ):
        shapes = {
            "weight1": (hidden, features),
            "bias1": (hidden,),
            "weight2": (classes, hidden),
            "bias2": (classes,),
        }
        super().__init__(shapes, replicas, device)

    def _hidden(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias1.unsqueeze(1), x, self.weight1.mT).relu_()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (R, B, C) of x (R, B, D)."""
        self.flops.shared += self.sample_flops * x.shape[1]
        return torch.baddbmm(self.bias2.unsqueeze(1), self._hidden(x), self.weight2.mT)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the hidden units (R, B, H) of x (R, B, D)."""
        self.flops.product(x.shape[1], *self.shapes["weight1"])
        return self._hidden(x)

    def input_gradient(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """Return d(slope . logits)/dx, (R, B, D), for slope (R, B, C), by one backward pass."""
        # the first layer's weights are used twice, for the hidden units and backwards
        self.flops.shared += (self.sample_flops + 2 * self.weight1[0].numel()) * x.shape[1]
        return ((slope @ self.weight2) * (self._hidden(x) > 0)) @ self.weight1

    def channel_effects(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return f^c(x) - f^c(x with x_k = 0), (R, B, D): what feature k adds to the true class's logit.

        Removing feature k changes the hidden units' inputs by -x_k W1[:, k], which costs O(hidden) per
        feature and sample instead of a forward pass.
        """
        # inputs of the hidden units, then a product with the true class's weights per feature
        self.flops.shared += 2 * (2 * self.weight1[0].numel()) * x.shape[1]
        inputs = torch.baddbmm(self.bias1.unsqueeze(1), x, self.weight1.mT).unsqueeze(2)
        weights = self.weight2.gather(1, y.unsqueeze(2).expand(-1, -1, self.weight2.shape[2])).unsqueeze(3)
        effects = torch.empty_like(x)
        step = max(1, EFFECT_FLOATS // inputs.numel())
        for start in range(0, x.shape[2], step):
            part = slice(start, start + step)
            without = inputs - x[:, :, part, None] * self.weight1.mT[:, None, part]
            effects[:, :, part] = ((inputs.relu() - without.relu_()) @ weights).squeeze(3)
        return effects

    def _accumulate(self, into: dict[str, torch.Tensor], loss: Loss, scale: float) -> None:
        # Compute all slopes before writing: `into` may be the parameters themselves.
        steps = []
        for x, slope, weight in loss.terms:
            # hidden units, their gradient, and those of both weight matrices
            self.flops.shared += 2 * self.sample_flops * x.shape[1]
            hidden = self._hidden(x)
            steps.append((x, hidden, slope, (slope @ self.weight2) * (hidden > 0), scale * weight))
        for x, hidden, slope, back, alpha in steps:
            into["weight2"].baddbmm_(slope.mT, hidden, alpha=alpha)
            into["bias2"].add_(slope.sum(1), alpha=alpha)
            into["weight1"].baddbmm_(back.mT, x, alpha=alpha)
            into["bias1"].add_(back.sum(1), alpha=alpha)

    def _accumulate_fisher(self, into, x, p, y):
        hidden = self._hidden(x)
        squares, slope = expected_squares(p, y)
        if slope is not None:
            back = (slope @ self.weight2).square_()
        else:  # E (sum_c (p_c - 1[y = c]) W_cj)^2 is the variance of W_yj over labels y drawn from p
            back = (p @ self.weight2.square() - (p @ self.weight2).square_()).clamp_min_(0)
        # gradients of both weight matrices and hidden units, then the products with weight2
        products = 2 if slope is None else 1
        backwards = 2 * products * self.weight2[0].numel()
        self.flops.shared += (self.sample_flops + 2 * self.weight1[0].numel() + backwards) * x.shape[1]
        back.mul_(hidden > 0)
        into["weight2"].baddbmm_(squares.mT, hidden.square())
        into["bias2"].add_(squares.sum(1))
        into["weight1"].baddbmm_(back.mT, x.square())
        into["bias1"].add_(back.sum(1))
