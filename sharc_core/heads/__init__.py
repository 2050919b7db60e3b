"""Classification heads on pooled features, one replica per seed, side by side."""

import torch

from sharc_core.heads.base import Batch, Head, Loss
from sharc_core.heads.linear import LinearHead
from sharc_core.heads.mlp import MLPHead

__all__ = ["Batch", "Head", "LinearHead", "Loss", "MLPHead", "make_head"]


def make_head(
    kind: str, hidden: int, replicas: int, features: int, classes: int, device: torch.device | str = "cpu"
) -> Head:
    """Return a head of kind "linear" or "mlp" with all parameters zero; call `initialise` to draw them."""
    if kind == "linear":
        return LinearHead(replicas, features, classes, device)
    return MLPHead(replicas, features, classes, hidden, device)
