"""k nearest neighbours (Cover & Hart 1967) among the samples of the episodic memory."""

from typing import Any, Literal

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Batch
from sharc_core.methods.base import METHODS, Method

TIE = 1e-9  # below any difference between shares of votes that is not rounding


@METHODS.register("knn")
class KNN(Method):
    """Predict by a vote of the k stored samples that are nearest to the pooled features.

    Nothing is trained and nothing is replayed; what a sample costs and how it is stored is the memory's part.
    With `storage` of pooled vectors it is a pure vector memory. The votes are those of scikit-learn's
    `KNeighborsClassifier`. Of classes with equal votes, the one with the nearest stored sample wins
    (scikit-learn: the first label); without votes, too, nearer classes score higher, which matters in
    Task-IL. A class that was not seen scores -inf.

    The head stays as it was drawn. A memory that asks it how to store a sample gets answers of an untrained
    head.
    """

    title = "k-NN"
    heads = ("linear",)
    trains_head = False
    passes = 1

    class Settings(BaseSettings):
        """Settings of k-NN; the defaults are scikit-learn's.

        k: number of neighbours, at most all stored samples. weights: every neighbour's vote is `uniform`, or
        is divided by its `distance`. metric: `euclidean`, or `cosine` for vectors scaled to unit length.
        """

        k: int = Field(default=5, ge=1)
        weights: Literal["uniform", "distance"] = "uniform"
        metric: Literal["euclidean", "cosine"] = "euclidean"

    def __init__(self, *args):
        super().__init__(*args)
        like: dict[str, Any] = {"dtype": torch.bool, "device": self.head.vector.device}
        self.seen = torch.zeros(self.replicas, self.head.classes, **like)
        self._stored: Batch | None = None  # the memory's own tensors

    def observe(self, batch, memory):
        """Note the classes."""
        self.seen.scatter_(1, batch.y, True)

    def filled(self, memory):
        """Use the stored samples from now on."""
        self._stored = memory.contents()

    def predict(self, x):
        """Return scores (R, B, C): shares of the votes, plus less than TIE for near classes."""
        if self._stored is None:
            return x.new_full((*x.shape[:2], self.head.classes), -torch.inf, dtype=torch.float64)
        pairs = zip(x, self._stored.x, self._stored.y, strict=True)
        scores = torch.stack([self._scores(*pair) for pair in pairs])
        return scores.masked_fill(~self.seen.unsqueeze(1), -torch.inf)

    def _scores(self, x: torch.Tensor, stored: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return scores (B, C) of x (B, D) by stored samples (N, D) with labels (N,), of one replica."""
        classes = self.head.classes
        distances = self._distances(x.double(), stored.double())
        near, at = distances.topk(min(self.settings.k, len(labels)), largest=False)
        votes = torch.ones_like(near)
        if self.settings.weights == "distance":  # samples at distance 0 outvote all others
            if self.settings.metric == "euclidean":  # the products round, so a sample has not 0 to itself
                others = (stored[column].double() for column in at.unbind(1))
                near = torch.stack([(x.double() - other).norm(dim=1) for other in others], 1)
            is_same = near == 0
            votes = torch.where(is_same.any(1, keepdim=True), is_same.double(), 1 / near)
        shares = votes.new_zeros(len(x), classes).scatter_add_(1, labels[at], votes)
        shares /= votes.sum(1, keepdim=True)
        nearest = near.new_full((len(x), classes), torch.inf)
        nearest.scatter_reduce_(1, labels.expand(len(x), -1), distances, "amin")
        rank = nearest.argsort(dim=1, stable=True).argsort(dim=1)  # 0 for the class with the nearest sample
        return shares + TIE * (1 - (rank + 1) / classes)

    def _distances(self, x: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        """Return distances (B, N) of x (B, D) and stored samples (N, D), squared if they are Euclidean."""
        if self.settings.metric == "cosine":
            unit, other = (torch.nn.functional.normalize(vectors, dim=1) for vectors in (x, stored))
            return (1 - unit @ other.T).clamp_min(0)
        norms = x.square().sum(1, keepdim=True), stored.square().sum(1)
        return (norms[0] + norms[1]).addmm_(x, stored.T, alpha=-2)

    @property
    def extra_bytes(self) -> int:
        """Bytes of a flag per class; the samples are counted with the memory."""
        return self.seen[0].nbytes
