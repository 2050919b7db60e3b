"""Nearest class mean: a running mean of each class's features, no gradient and no stored sample.

The classifier of Mensink et al. 2013 and, with exemplars and normalised features, of iCaRL (Rebuffi et al.
2017, arXiv 1611.07725).
"""

from typing import Any

from sharc_core.common.deferred import torch
from sharc_core.methods.base import METHODS
from sharc_core.methods.closed_form import ClosedForm


@METHODS.register("ncm")
class NCM(ClosedForm):
    """Predict the class whose mean is nearest in Euclidean distance.

    Sums are in float64, so that the order of the samples does not matter.
    """

    title = "NCM"

    def __init__(self, *args):
        super().__init__(*args)
        head = self.head
        like: dict[str, Any] = {"dtype": torch.float64, "device": head.vector.device}
        self.sums = torch.zeros(head.replicas, head.classes, head.features, **like)
        self.counts = torch.zeros(head.replicas, head.classes, **like)

    def observe(self, batch, memory):
        """Add the samples to the sums of their classes."""
        member = torch.nn.functional.one_hot(batch.y, self.head.classes).double()
        self.flops.product(self.head.classes, *batch.x.shape[1:])
        self.sums.baddbmm_(member.mT, batch.x.double())
        self.counts += member.sum(1)

    def predict(self, x):
        """Return scores (R, B, C), -|x - mean|^2 + |x|^2 = 2 x . mean - |mean|^2; -inf for unseen classes."""
        means = self.sums / self.counts.clamp_min(1).unsqueeze(2)
        scores = torch.baddbmm(-means.square().sum(2).unsqueeze(1), x.double(), means.mT, alpha=2)
        return scores.masked_fill((self.counts == 0).unsqueeze(1), -torch.inf)
