"""How much each channel of a feature map matters to the head's decision: (R, n, D) per channel.

Every saliency is a function (head, x, y, positions, generators) under `@SALIENCIES.register(name)`:
head: the current Head; x (R, n, D) pooled features; y (R, n) true classes; positions = h * w of a map;
generators: one torch.Generator per replica, for those that draw. Returns (R, n, D).
"""

import torch

from sharc_core.heads import Head
from sharc_core.registry import Registry

SALIENCIES = Registry("saliency", "sharc_core.saliency")


def _one_hot(y: torch.Tensor, classes: int, like: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(y, classes).to(like.dtype)


@SALIENCIES.register("gradient")
def gradient(
    head: Head, x: torch.Tensor, y: torch.Tensor, positions: int, generators: list[torch.Generator]
) -> torch.Tensor:
    """alpha_k^c = mean over (i, j) of d f^c / d A_kij (SHARC eq. 3), c the true class.

    The head sees the pooled map, so d f^c / d A_kij = d f^c / d x_k / (h w) at every position, and the
    mean is that value: W[c, k] / (h w) for a linear head, one backward pass through an MLP.
    """
    classes = head.logits(x[:, :1]).shape[-1]
    return head.input_gradient(x, _one_hot(y, classes, x)) / positions


@SALIENCIES.register("activation")
def activation(
    head: Head, x: torch.Tensor, y: torch.Tensor, positions: int, generators: list[torch.Generator]
) -> torch.Tensor:
    """The channel's mean activation: what a reader would try who ignores the head."""
    return x


@SALIENCIES.register("random")
def random(
    head: Head, x: torch.Tensor, y: torch.Tensor, positions: int, generators: list[torch.Generator]
) -> torch.Tensor:
    """Uniform noise: the control that any saliency has to beat."""
    return torch.stack([torch.rand(x.shape[1:], generator=g) for g in generators]).to(x)
