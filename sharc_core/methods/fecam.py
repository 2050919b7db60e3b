"""FeCAM: Mahalanobis distances to class prototypes, with a covariance per class.

Goswami et al. 2023, "FeCAM: Exploiting the Heterogeneity of Class Distributions in Exemplar-Free Continual
Learning", arXiv 2309.14062; code dipamgoswami/FeCAM.
"""

from typing import Any, Literal

from pydantic import Field

from sharc_core.common.deferred import normalize, torch
from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS
from sharc_core.methods.closed_form import Chunks, ClosedForm


@METHODS.register("fecam")
class FeCAM(ClosedForm):
    """Predict the class whose prototype is nearest by its own Mahalanobis distance.

    With Tukey's transformation t(x) = x^tukey and u(v) = v / |v|, the distance of x to class c is

        d^T S_c^-1 d,    d = u(t(x)) - u(t(mean_c)),

    where S_c is the covariance of t(x) in the class, shrunk and normalised to a correlation matrix (see
    `Settings`). A score is the negative distance; a class that was not seen scores -inf. If S_c is singular,
    its pseudo-inverse is used; a feature without variance counts as uncorrelated, with variance 1. So a class
    with one sample has the Euclidean distance.

    Covariances come from sums of t(x) and t(x) t(x)^T in float64, so the order of the samples does not
    matter. The sums and the inverse of a class are symmetric and share one square matrix: off-diagonal sums
    above the diagonal, the inverse on and below it. At 1,280 features and 100 classes that is 1.3 GB, so
    seeds run one after the other.

    Differences to the authors' code: it classifies the first task with a trained head, leaves elements that
    are 0 out of the mean of the off-diagonal covariances, and uses inverses in float32.
    """

    title = "FeCAM"
    advances_together = False

    class Settings(BaseSettings):
        """Settings of FeCAM; the defaults are the published ones of its CIFAR-100 runs.

        covariance: one per `class`, or a `common` one: the covariance of each task's samples, averaged over
        the tasks by their numbers of classes. tukey: the exponent, which needs features that are not
        negative; 1: no transformation. shrink_diagonal, shrink_off_diagonal: S + g1 v1 I + g2 v2 (1 - I) is
        used in place of S, where v1 and v2 are the means of its diagonal and off-diagonal elements. The
        authors' code applies g1 = g2 = 1 twice, which is 3 once. correlation: whether a class's covariance is
        then divided by the standard deviations of both features. (The authors do not with a common one.)
        """

        covariance: Literal["class", "common"] = "class"
        tukey: float = Field(default=0.5, gt=0, le=1)
        shrink_diagonal: float = Field(default=3.0, ge=0)
        shrink_off_diagonal: float = Field(default=3.0, ge=0)
        correlation: bool = True

    def __init__(self, *args):
        super().__init__(*args)
        r, c, d = self.head.replicas, self.head.classes, self.head.features
        like: dict[str, Any] = {"dtype": torch.float64, "device": self.head.vector.device}
        self.is_common = self.settings.covariance == "common"
        groups = 1 if self.is_common else c  # samples of a group have one covariance
        self.chunks = Chunks(self.head, groups * d // 64)
        self.sums, self.counts = torch.zeros(r, c, d, **like), torch.zeros(r, c, **like)
        self.transformed = torch.zeros(r, groups, d, **like)
        self.squares = torch.zeros(r, groups, d, **like)
        self.matrices = torch.zeros(r, groups, d, d, **like)
        self.inverted = torch.zeros(r, groups, **like)  # samples by group that the inverse is of
        self.grouped = torch.zeros(r, groups, **like)
        if self.is_common:
            self.mixture = torch.zeros(r, d, d, **like)
            self.mixed = torch.zeros(r, **like)

    def observe(self, batch, memory):
        """Add the samples to the sums.

        Raises UserError for negative features, if they are transformed.
        """
        if self.settings.tukey != 1 and bool((batch.x < 0).any()):
            raise UserError(
                "method fecam: a feature is negative, and Tukey's transformation takes roots: set "
                "method_settings.fecam.tukey to 1, which leaves it out"
            )
        for x, y in self.chunks.add(batch):
            self._add(x, y)

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a chunk x (R, n, D), y (R, n)."""
        self.flops.product(x.shape[1], self.head.features, self.head.features)
        for r, labels in enumerate(y):
            vectors = x[r].double()
            for label in labels.unique().tolist():
                own = vectors[labels == label]
                self.sums[r, label] += own.sum(0)
                self.counts[r, label] += len(own)
                if not self.is_common:
                    self._gather(r, label, own)
            if self.is_common:
                self._gather(r, 0, vectors)

    def _gather(self, r: int, group: int, vectors: torch.Tensor) -> None:
        """Add vectors (n, D) to the sums of a group."""
        transformed = vectors**self.settings.tukey
        products = transformed.T @ transformed
        self.transformed[r, group] += transformed.sum(0)
        self.squares[r, group] += products.diagonal()
        self.matrices[r, group] += products.triu(1)
        self.grouped[r, group] += len(vectors)

    def end_task(self, task, memory):
        """Invert the covariances that changed."""
        for x, y in self.chunks.rest():
            self._add(x, y)
        for r, group in (self.grouped != self.inverted).nonzero().tolist():
            covariance = self._covariance(r, group)
            if self.is_common:
                covariance = self._mix(r, covariance, len(task.classes))
            inverse = self._inverse(self._shrunk(covariance))
            self.matrices[r, group] = self.matrices[r, group].triu(1) + inverse.tril()
        self.inverted.copy_(self.grouped)

    def _covariance(self, r: int, group: int) -> torch.Tensor:
        """Return the unbiased covariance (D, D) of a group's transformed samples; zeros for one sample."""
        count, upper = float(self.grouped[r, group]), self.matrices[r, group].triu(1)
        mean = self.transformed[r, group] / count
        products = upper + upper.T + self.squares[r, group].diag()
        return (products - count * torch.outer(mean, mean)) / max(1.0, count - 1)

    def _mix(self, r: int, covariance: torch.Tensor, classes: int) -> torch.Tensor:
        """Return the common covariance, now that a task of so many classes has one, and empty its sums."""
        self.mixed[r] += classes
        self.mixture[r] += (covariance - self.mixture[r]) * (classes / self.mixed[r])
        for sums in (self.transformed, self.squares, self.matrices, self.grouped):
            sums[r].zero_()
        return self.mixture[r]

    def _shrunk(self, covariance: torch.Tensor) -> torch.Tensor:
        """Return the covariance (D, D) shrunk (eq. 7 of the paper) and as correlations (eq. 8), if set."""
        size, settings = len(covariance), self.settings
        on, total = covariance.diagonal().mean(), covariance.sum()
        off = (total - size * on) / max(1, size * (size - 1))
        shrunk = covariance + settings.shrink_off_diagonal * off
        variances = covariance.diagonal() + settings.shrink_diagonal * on
        variances = torch.where(variances > 0, variances, 1.0)
        shrunk.diagonal().copy_(variances)
        if settings.correlation:
            deviations = variances.sqrt()
            shrunk /= torch.outer(deviations, deviations)
        return shrunk

    @staticmethod
    def _inverse(matrix: torch.Tensor) -> torch.Tensor:
        """Return the inverse (D, D) of a symmetric matrix, or its pseudo-inverse if it is singular."""
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed):
            return torch.linalg.pinv(matrix, hermitian=True)
        return torch.cholesky_inverse(factor)

    def predict(self, x):
        """Return scores (R, B, C), the negative distances as of the last end of a task."""
        scores = x.new_full((*x.shape[:2], self.head.classes), -torch.inf, dtype=torch.float64)
        for r, label in self.counts.nonzero().tolist():
            inverse = self._unpacked(r, label)
            mean = self.sums[r, label] / self.counts[r, label]
            differences = self._embedded(x[r].double()) - self._embedded(mean)
            scores[r, :, label] = -((differences @ inverse) * differences).sum(1)
        return scores

    def _unpacked(self, r: int, label: int) -> torch.Tensor:
        """Return the inverse (D, D) that belongs to a class."""
        lower = self.matrices[r, 0 if self.is_common else label].tril()
        return lower + lower.tril(-1).T

    def _embedded(self, x: torch.Tensor) -> torch.Tensor:
        """Return u(t(x)) of vectors (..., D)."""
        return normalize(x**self.settings.tukey, dim=-1)
