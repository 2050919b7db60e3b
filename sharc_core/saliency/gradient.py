"""The paper's saliency: the gradient of the true class's logit (SHARC eq. 3, after Grad-CAM)."""

from sharc_core.saliency.base import SALIENCIES, class_gradient


@SALIENCIES.register("gradient")
def gradient(head, x, y, positions, generators):
    """Return alpha_k^c = mean over (i, j) of d f^c / d A_kij, which is W[c, k] / (h w) for a linear head."""
    return class_gradient(head, x, y) / positions
