"""Ridge regression on one-hot targets, from a streaming Gram matrix and class sums.

The classifier of scikit-learn's `RidgeClassifier`, and, with `ridge: null` and without an intercept, that of
RanPAC (McDonnell et al. 2023, arXiv 2307.02251) without its random projection (ranpac.py).
"""

from typing import Any

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Head
from sharc_core.methods.base import METHODS
from sharc_core.methods.closed_form import Chunks, ClosedForm

RIDGES = [10.0**power for power in range(-8, 9)]  # RanPAC's candidates
EVERY = 5  # every fifth sample of a task is held out to choose among them: RanPAC's share of 20 %


class Moments:
    """Sums over samples that determine a least-squares fit, in float64.

    gram (R, M, M): sum of x x^T. sums (R, C, M): sum of x by class. counts (R, C): samples by class.
    """

    def __init__(self, head: Head, width: int):
        """head: gives R, C and the device. width: M."""
        r, c = head.replicas, head.classes
        like: dict[str, Any] = {"dtype": torch.float64, "device": head.vector.device}
        self.gram, self.sums = torch.zeros(r, width, width, **like), torch.zeros(r, c, width, **like)
        self.counts = torch.zeros(r, c, **like)

    def add(self, r: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add samples x (n, M), y (n,) of replica r."""
        member = torch.nn.functional.one_hot(y, self.counts.shape[1]).double()
        self.gram[r].addmm_(x.T, x)
        self.sums[r].addmm_(member.T, x)
        self.counts[r] += member.sum(0)

    def take(self, other: "Moments") -> None:
        """Add the sums of other samples, and set those to zero."""
        for name in ("gram", "sums", "counts"):
            getattr(self, name).add_(getattr(other, name))
            getattr(other, name).zero_()

    def fit(self, r: int, ridge: float, intercept: bool) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return weights (C, M) and biases (C,) that minimise |Y - X W^T - b|^2 + ridge |W|^2.

        Without an intercept, b is 0. Returns None if the matrix is not positive definite in float64.
        """
        gram, sums, counts = self.gram[r].clone(), self.sums[r], self.counts[r]
        mean = torch.zeros_like(sums[0])
        if intercept:  # centred samples and targets
            mean = sums.sum(0) / counts.sum()
            gram.addr_(mean, mean, alpha=-float(counts.sum()))
            sums = sums - torch.outer(counts, mean)
        gram.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if bool(failed):
            return None
        weight = torch.cholesky_solve(sums.T, factor).T
        bias = counts / counts.sum() - weight @ mean if intercept else torch.zeros_like(counts)
        return weight, bias

    def loss(self, r: int, weight: torch.Tensor, bias: torch.Tensor) -> float:
        """Return the sum of squared errors of weights (C, M) and biases (C,) on these samples."""
        sums, counts = self.sums[r], self.counts[r]
        squares = ((weight @ self.gram[r]) * weight).sum() + 2 * bias @ (weight @ sums.sum(0))
        products = (weight * sums).sum() + bias @ counts
        return float(squares + counts.sum() * (1 + bias @ bias) - 2 * products)


@METHODS.register("ridge")
class Ridge(ClosedForm):
    """Predict the class with the largest output of ridge regression on one-hot targets.

    The weights minimise |Y - X W^T - b|^2 + ridge |W|^2 over all samples of the stream, so outputs are those
    of scikit-learn's `Ridge` and predictions those of its `RidgeClassifier`. A class that was not seen scores
    -inf. Everything is in float64. If G + ridge I is not positive definite in float64, the ridge is
    multiplied by 10 until it is. A pass over a task adds its samples again.
    """

    title = "Ridge"

    class Settings(BaseSettings):
        """Settings of ridge regression; the defaults are scikit-learn's.

        ridge: added to the diagonal of the Gram matrix; None: chosen at the end of each task as in RanPAC,
        among 10^-8, ..., 10^8. Weights are fitted to four of five samples of the task, and the ridge with the
        smallest squared error on the others is used for the fit to all samples of the stream. RanPAC holds
        out the last fifth of the shuffled task; here it is every fifth sample, so no sample has to be kept.
        That needs two more Gram matrices. intercept: whether a bias is fitted, which is not penalised.
        """

        ridge: float | None = Field(default=1.0, gt=0)
        intercept: bool = True

    def __init__(self, *args):
        super().__init__(*args)
        head, width = self.head, self.width
        self.chunks = Chunks(head, width // 16)
        self.moments = Moments(head, width)
        self.parts: tuple[Moments, Moments] | None = None  # fitted and held-out samples of the task
        if self.settings.ridge is None:
            self.parts = Moments(head, width), Moments(head, width)
        like: dict[str, Any] = {"dtype": torch.float64, "device": head.vector.device}
        self.ridges = torch.full((head.replicas,), self.settings.ridge or 1.0, **like)
        self.weight = torch.zeros(head.replicas, head.classes, width, **like)
        self.bias = torch.full((head.replicas, head.classes), -torch.inf, **like)
        self._visited = 0  # samples of the task

    @property
    def width(self) -> int:
        """M, the number of inputs of the regression."""
        return self.head.features

    def inputs(self, r: int, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs (n, M) float64 of the regression for pooled features x (n, D) of replica r."""
        return x.double()

    def begin_task(self, task, memory):
        """Count the samples of the task from 0."""
        self._visited = 0

    def observe(self, batch, memory):
        """Add the samples to the sums."""
        for x, y in self.chunks.add(batch):
            self._add(x, y)

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add a chunk x (R, n, D), y (R, n); every fifth sample of the task is held out if that is needed."""
        position = self._visited + torch.arange(y.shape[1], device=y.device)
        is_held_out = position % EVERY == EVERY - 1
        self.flops.product(y.shape[1], self.width + self.head.classes, self.width)
        self._visited += y.shape[1]
        for r in range(self.replicas):
            inputs = self.inputs(r, x[r])
            if self.parts is None:
                self.moments.add(r, inputs, y[r])
            else:
                for part, own in zip(self.parts, (~is_held_out, is_held_out), strict=True):
                    part.add(r, inputs[own], y[r, own])

    def end_task(self, task, memory):
        """Choose the ridge, if it is not set, and fit the weights to all samples so far."""
        for x, y in self.chunks.rest():
            self._add(x, y)
        if self.parts is not None:
            if self._visited >= EVERY:
                self._choose(*self.parts)
            for part in self.parts:
                self.moments.take(part)
        for r in range(self.replicas):
            ridge = self.ridges[r].item()
            while (solved := self._fit(self.moments, r, ridge)) is None:
                ridge *= 10
            self.weight[r], self.bias[r] = solved
        self.bias.masked_fill_(self.moments.counts == 0, -torch.inf)

    def _choose(self, fitted: Moments, held_out: Moments) -> None:
        """Set each replica's ridge to the candidate with the smallest error on the held-out samples."""
        for r in range(self.replicas):
            losses = {}
            for ridge in RIDGES:
                if solved := self._fit(fitted, r, ridge):
                    losses[ridge] = held_out.loss(r, *solved)
                    self.flops.product(self.head.classes, self.width, self.width + 1, replica=r)
            self.ridges[r] = min(losses, key=losses.__getitem__)

    def _fit(self, moments: Moments, r: int, ridge: float) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the weights and biases of `Moments.fit`."""
        if self.settings.intercept:
            self.flops.product(self.width, self.width + self.head.classes, replica=r)
        return moments.fit(r, ridge, self.settings.intercept)

    def predict(self, x):
        """Return the outputs (R, B, C) of the regression as of the last end of a task."""
        outputs = [
            torch.addmm(self.bias[r], self.inputs(r, x[r]), self.weight[r].T) for r in range(self.replicas)
        ]
        return torch.stack(outputs)
