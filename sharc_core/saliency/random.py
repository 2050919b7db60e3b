"""Uniform noise, the control that any saliency should beat."""

from sharc_core.common.deferred import torch
from sharc_core.saliency.base import SALIENCIES


@SALIENCIES.register("random")
def random(head, x, y, positions, generators):
    """Draw scores (R, n, D) uniformly in [0, 1), from each replica's generator."""
    return torch.stack([torch.rand(x.shape[1:], generator=g) for g in generators]).to(x)
