"""Activation magnitude: what a reader would try who ignores the head."""

from sharc_core.saliency.base import SALIENCIES


@SALIENCIES.register("activation")
def activation(head, x, y, positions, generators):
    """The channel's mean activation."""
    return x
