"""Gradient times activation: the channel's first-order contribution to the true class's logit."""

from sharc_core.saliency.base import SALIENCIES, class_gradient


@SALIENCIES.register("gradient_x_activation")
def gradient_x_activation(head, x, y, positions, generators):
    """Return the mean over (i, j) of A_kij d f^c / d A_kij = x_k d f^c / d x_k / (h w)."""
    return x * class_gradient(head, x, y) / positions
