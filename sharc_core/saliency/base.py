"""Saliencies score how much each channel of a feature map matters to the head's decision.

A saliency is a function (head, x, y, positions, generators) under `@SALIENCIES.register(name)` in a file of
this package. head: the current Head. x (R, n, D): pooled features. y (R, n): true classes. positions: h * w
of a map. generators: one torch.Generator per replica, for saliencies that draw. It returns scores (R, n, D),
each the mean of the saliency of the channel's map entries.

The head's input is the pooled map, x_k = mean over (i, j) of A_kij. So d f / d A_kij = d f / d x_k / (h w) at
every position, and no saliency needs the map itself.
"""

from sharc_core.common.deferred import torch
from sharc_core.common.registry import Registry
from sharc_core.heads import Head

SALIENCIES = Registry("saliency", "sharc_core.saliency")


def class_gradient(head: Head, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return d f^c / d x (R, n, D) of the true class: rows of W for a linear head, else one backward pass."""
    classes = head.logits(x[:, :1]).shape[-1]
    return head.input_gradient(x, torch.nn.functional.one_hot(y, classes).to(x.dtype))
