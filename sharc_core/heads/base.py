"""The trained part: a linear or MLP classifier on pooled features, R replicas side by side.

Every parameter of replica r lies in row r of one (R, P) matrix, `vector`; weights are views into it.
So an optimiser step, a projection (GEM, A-GEM) or an average (CLS-ER, Reptile) is one operation on
that matrix, and replicas never mix. Gradients are closed form (tested against autograd): with a
loss's derivative by the logits in hand, a linear head needs one product, an MLP three.
"""

import math
from dataclasses import dataclass, field

import torch

from sharc_core.common.seeds import generator

# Rows of the parameter matrix are padded (with zeros that stay zero) to this many floats, so that every
# replica's weights are equally aligned in memory: kernels round differently at other alignments.
ALIGNED = 16


@dataclass
class Batch:
    """What a method trains on: x (R, B, D) pooled features, y (R, B) labels, logits (R, B, C) or None."""

    x: torch.Tensor
    y: torch.Tensor
    logits: torch.Tensor | None = None

    def joined(self, other: "Batch") -> "Batch":
        """These samples and then the other's, without logits."""
        return Batch(torch.cat([self.x, other.x], 1), torch.cat([self.y, other.y], 1))


@dataclass
class Loss:
    """A per-replica loss, held as its derivative by the logits.

    terms: triples (inputs (R, B, D), dL/dlogits before weighting (R, B, C), weight). Losses add and
    scale like numbers; the sum over replicas is implied, so gradients stay separate.
    """

    terms: list[tuple[torch.Tensor, torch.Tensor, float]] = field(default_factory=list)

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.terms + other.terms)

    def __rmul__(self, factor: float) -> "Loss":
        return Loss([(x, slope, factor * weight) for x, slope, weight in self.terms])


class Head:
    """Base of the heads: the (R, P) parameter matrix, losses, gradients and steps."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], replicas: int, device: torch.device):
        """shapes: parameter name to its shape for one replica."""
        self.shapes = shapes
        size = sum(map(math.prod, shapes.values()))
        self._adopt(torch.zeros(replicas, -(-size // ALIGNED) * ALIGNED, device=device))

    def double(self) -> "Head":
        """The same parameters in float64, for comparisons to the last digits; changes this head."""
        self._adopt(self.vector.double())
        return self

    def _adopt(self, vector: torch.Tensor) -> None:
        self.vector = vector
        self.__dict__.update(self._views(vector))

    def _views(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        views, start = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            views[name] = vector[:, start : start + size].unflatten(1, shape)
            start += size
        return views

    def copy(self) -> "Head":
        """An independent head with the same parameters."""
        twin = object.__new__(type(self))
        twin.shapes = self.shapes
        twin._adopt(self.vector.clone())
        return twin

    def initialise(self, seeds: list[int]) -> None:
        """Uniform in +-1/sqrt(fan-in), as torch.nn.Linear does, from one generator per seed."""
        for row, seed in enumerate(seeds):
            source = generator(seed, "init")
            for name, view in self._views(self.vector).items():
                shape = self.shapes[name]
                fan_in = shape[1] if len(shape) == 2 else self.shapes[name.replace("bias", "weight")][1]
                draw = torch.rand(shape, generator=source) * 2 - 1
                view[row] = (draw / math.sqrt(fan_in)).to(view.device)

    @property
    def replicas(self) -> int:
        """R, the number of runs that advance together."""
        return self.vector.shape[0]

    @property
    def bytes_per_replica(self) -> int:
        """Size of one replica's parameters."""
        return sum(map(math.prod, self.shapes.values())) * self.vector.element_size()

    def cross_entropy(self, batch: Batch) -> Loss:
        """Mean softmax cross-entropy over the batch; d/dlogits = (softmax - one-hot) / B."""
        slope = self.logits(batch.x).softmax(-1)
        slope.scatter_add_(2, batch.y.unsqueeze(2), _minus_one(slope))
        return Loss([(batch.x, slope, 1 / batch.x.shape[1])])

    def logit_mse(self, batch: Batch, target: torch.Tensor) -> Loss:
        """Mean over samples and classes of (logits - target)^2; target (R, B, C)."""
        slope = self.logits(batch.x) - target
        return Loss([(batch.x, slope, 2 / slope[0].numel())])

    def gradient(self, loss: Loss) -> torch.Tensor:
        """(R, P) gradient of each replica's loss by its own parameters."""
        gradient = torch.zeros_like(self.vector)
        self._accumulate(self._views(gradient), loss, 1.0)
        return gradient

    def descend(self, loss: Loss, lr: float) -> None:
        """One step of plain SGD."""
        self._accumulate(self._views(self.vector), loss, -lr)


_MINUS_ONES: dict[tuple, torch.Tensor] = {}


def _minus_one(like: torch.Tensor) -> torch.Tensor:
    """(R, B, 1) of -1, made once per shape: the hot loop allocates nothing it need not."""
    key = (like.shape[:2], like.device, like.dtype)
    if key not in _MINUS_ONES:
        _MINUS_ONES[key] = like.new_full((*like.shape[:2], 1), -1.0)
    return _MINUS_ONES[key]
