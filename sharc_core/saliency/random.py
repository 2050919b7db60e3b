"""Uniform noise: the control that any saliency has to beat."""

import torch

from sharc_core.saliency.base import SALIENCIES


@SALIENCIES.register("random")
def random(head, x, y, positions, generators):
    """Each replica's own draw."""
    return torch.stack([torch.rand(x.shape[1:], generator=g) for g in generators]).to(x)
