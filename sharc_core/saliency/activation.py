"""Activation magnitude, a simple baseline that ignores the head."""

from sharc_core.saliency.base import SALIENCIES


@SALIENCIES.register("activation")
def activation(head, x, y, positions, generators):
    """Return each channel's mean activation, x (R, n, D)."""
    return x
