"""Occlusion (Zeiler & Fergus 2014, arXiv 1311.2901): what the logit loses with the channel."""

from sharc_core.saliency.base import SALIENCIES


@SALIENCIES.register("occlusion")
def occlusion(head, x, y, positions, generators):
    """f^c(x) - f^c(x with channel k set to zero), / (h w); for a linear head gradient times activation."""
    return head.channel_effects(x, y) / positions
