"""Classification heads on pooled features, one replica per seed, side by side."""

from sharc_core.common.deferred import torch
from sharc_core.heads.base import Batch, Head, Loss
from sharc_core.heads.cosine import CosineHead
from sharc_core.heads.linear import LinearHead
from sharc_core.heads.mlp import MLPHead

# By the value of a grid's `head.kind`. They are imported here, so that they are part of every cell's code.
HEADS: dict[str, type[Head]] = {"linear": LinearHead, "mlp": MLPHead, "cosine": CosineHead}

__all__ = ["HEADS", "Batch", "CosineHead", "Head", "LinearHead", "Loss", "MLPHead", "make_head"]


def make_head(
    kind: str,
    hidden: int,
    replicas: int,
    features: int,
    classes: int,
    device: torch.device | str = "cpu",
    scale: float = 1.0,
) -> Head:
    """Return a head of a kind with all parameters zero; call `initialise` to draw them.

    hidden: width of the hidden layer of "mlp". scale: the initial one of "cosine".
    """
    if kind == "linear":
        return LinearHead(replicas, features, classes, device)
    if kind == "cosine":
        return CosineHead(replicas, features, classes, device, scale)
    return MLPHead(replicas, features, classes, hidden, device)
