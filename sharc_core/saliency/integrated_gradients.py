"""Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) with a zero baseline."""

import numpy as np

from sharc_core.common.deferred import torch
from sharc_core.heads import LinearHead
from sharc_core.saliency.base import SALIENCIES, class_gradient

NODES = 50  # nodes of the Gauss-Legendre quadrature; a linear head needs one


@SALIENCIES.register("integrated_gradients")
def integrated_gradients(head, x, y, positions, generators):
    """Return x_k / (h w) times the mean over t in [0, 1] of d f^c / d x_k at t x.

    The sum over all entries of the map is f^c(x) - f^c(0), up to the quadrature's error at kinks.
    """
    nodes, weights = np.polynomial.legendre.leggauss(1 if isinstance(head, LinearHead) else NODES)
    slope = torch.zeros_like(x)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        slope += weight * class_gradient(head, node * x, y)
    return x * slope / positions
