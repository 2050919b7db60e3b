"""Deep streaming linear discriminant analysis (Hayes & Kanan 2020, arXiv 1909.01520)."""

from typing import Any, Literal

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS
from sharc_core.methods.closed_form import Chunks, ClosedForm


@METHODS.register("slda")
class SLDA(ClosedForm):
    """Linear discriminant analysis with running class means and one running covariance, equal priors.

    A sample x of class y updates the scatter matrix with d = x - mean_y, then the mean (Welford's update):

        scatter += n_y / (n_y + 1) d d^T,    mean_y += d / (n_y + 1),    n_y += 1.

    So after N samples in any order scatter / N is the pooled within-class covariance of the class means, as
    in batch LDA. A score is w_c . x - w_c . mean_c / 2 with w_c = Lambda mean_c and Lambda the inverse of
    (1 - shrinkage) scatter / N + shrinkage * target; a class that was not seen scores -inf. Everything is in
    float64. Samples enter in order, but the products of D / 16 samples are added to the scatter matrix at a
    time, so that minibatches of any size give the same bits.

    Differences to the authors' code (tyler-hayes/Deep_SLDA): it weighs d d^T by t / (t + 1), where t counts
    the samples of all classes (`covariance: published`; the first sample of a class then enters with its
    distance from 0), works in float32 with a pseudo-inverse, may start from a covariance estimated on a first
    batch (OAS), and scores classes that were not seen with 0.
    """

    title = "SLDA"

    class Settings(BaseSettings):
        """Settings of SLDA; the default shrinkage and target are the authors'.

        shrinkage: weight of the target in the covariance. target: the "identity", or the identity "scaled" by
        the mean variance, as in scikit-learn. covariance: "exact", or with the weights of the "published"
        code, where the order of the samples matters.
        """

        shrinkage: float = Field(default=1e-4, gt=0, le=1)
        target: Literal["identity", "scaled"] = "identity"
        covariance: Literal["exact", "published"] = "exact"

    def __init__(self, *args):
        super().__init__(*args)
        r, c, d = self.head.replicas, self.head.classes, self.head.features
        like: dict[str, Any] = {"dtype": torch.float64, "device": self.head.vector.device}
        self.means, self.counts = torch.zeros(r, c, d, **like), torch.zeros(r, c, **like)
        self.scatter = torch.zeros(r, d, d, **like)
        self.weight, self.bias = torch.zeros(r, c, d, **like), torch.full((r, c), -torch.inf, **like)
        self.chunks = Chunks(self.head, d // 16)

    def observe(self, batch, memory):
        """Update means and scatter with one sample after the other, a chunk of samples at a time."""
        for x, y in self.chunks.add(batch):
            self._add(x, y)

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take the updates of samples x (R, n, D), y (R, n) in order; the scatter matrix is read once."""
        rows = torch.arange(self.replicas, device=y.device)
        differences, weights = [], []
        for sample, label in zip(x.double().unbind(1), y.unbind(1), strict=True):
            difference, count = sample - self.means[rows, label], self.counts[rows, label]
            seen = count if self.settings.covariance == "exact" else self.counts.sum(1)
            differences.append(difference)
            weights.append(seen / (seen + 1))
            self.means[rows, label] += difference / (count + 1).unsqueeze(1)
            self.counts[rows, label] += 1
        d = torch.stack(differences, 1)
        self.flops.product(self.head.features, *x.shape[1:])
        self.scatter.baddbmm_((d * torch.stack(weights, 1).unsqueeze(2)).mT, d)

    def end_task(self, task, memory):
        """Derive the linear classifier from means and covariance."""
        for x, y in self.chunks.rest():
            self._add(x, y)
        eye = torch.eye(self.head.features, dtype=torch.float64, device=self.scatter.device)
        covariance = self.scatter / self.counts.sum(1)[:, None, None]
        scale = torch.ones_like(self.counts[:, 0])
        if self.settings.target == "scaled":
            variance = covariance.diagonal(dim1=1, dim2=2).mean(1)
            scale = torch.where(variance > 0, variance, scale)
        s = self.settings.shrinkage
        factor, _ = torch.linalg.cholesky_ex((1 - s) * covariance + s * scale[:, None, None] * eye)
        self.weight = torch.cholesky_solve(self.means.mT, factor).mT
        self.bias = (-0.5 * (self.weight * self.means).sum(2)).masked_fill(self.counts == 0, -torch.inf)

    def predict(self, x):
        """Return scores (R, B, C) of the classifier as of the last end of a task."""
        return torch.baddbmm(self.bias.unsqueeze(1), x.double(), self.weight.mT)
