"""Occlusion (Zeiler & Fergus 2014, arXiv 1311.2901): the drop of the logit without the channel."""

from sharc_core.saliency.base import SALIENCIES


@SALIENCIES.register("occlusion")
def occlusion(head, x, y, positions, generators):
    """Return (f^c(x) - f^c(x with channel k set to zero)) / (h w).

    For a linear head, this equals gradient times activation.
    """
    return head.channel_effects(x, y) / positions
