"""The trained part: a linear or MLP classifier on pooled features, R replicas side by side.

Every parameter of replica r lies in row r of one (R, P) matrix, `vector`; weights are views into it.
So an optimiser step, a projection (GEM, A-GEM) or an average (CLS-ER, Reptile) is one operation on
that matrix, and replicas never mix. The gradient by the parameters follows in closed form from a loss's
derivative by the logits: one product for a linear head, three for an MLP. That derivative is itself in
closed form for `cross_entropy` and `logit_mse`; `loss` takes any other function of the logits and lets
autograd differentiate it. Tests compare all of them with autograd through the whole head.

Heads count what their calls cost, see sharc_core.common.flops. `flops` is the one counter of a run: copies of
a head share it, and methods add what they multiply themselves.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from sharc_core.common.deferred import torch
from sharc_core.common.flops import FlopCount
from sharc_core.common.seeds import generator

# Rows of the parameter matrix are padded (with zeros that stay zero) to this many floats, so that every
# replica's weights are equally aligned in memory: kernels round differently at other alignments.
ALIGNED = 16
SHORTEST = 1e-12  # length below which a vector counts as zero, as in torch.nn.functional.normalize


@dataclass
class Batch:
    """A minibatch: x (R, B, D) pooled features, y (R, B) labels, logits (R, B, C) as stored, or None."""

    x: torch.Tensor
    y: torch.Tensor
    logits: torch.Tensor | None = None

    def joined(self, other: "Batch") -> "Batch":
        """Return one batch of these samples followed by the other's, without logits."""
        return Batch(torch.cat([self.x, other.x], 1), torch.cat([self.y, other.y], 1))


@dataclass
class Loss:
    """The losses of R replicas, held as their derivatives by the logits.

    terms: triples (inputs (R, B, D), dL/dlogits before weighting (R, B, C), weight). Losses add and scale
    like numbers: `head.cross_entropy(batch) + 0.5 * head.loss(x, function)`.
    """

    terms: list[tuple[torch.Tensor, torch.Tensor, float]] = field(default_factory=list)

    def __add__(self, other: "Loss") -> "Loss":
        return Loss(self.terms + other.terms)

    @property
    def samples(self) -> int:
        """Rows of all terms, of one replica."""
        return sum(x.shape[1] for x, _, _ in self.terms)

    def __rmul__(self, factor: float) -> "Loss":
        return Loss([(x, slope, factor * weight) for x, slope, weight in self.terms])


class Head:
    """Base of the heads: the (R, P) parameter matrix, losses, gradients and steps.

    output: name of the weights of the last layer. has_lengths: whether their lengths change predictions, so
    that `align` does. misfits: by name of a saliency that the head cannot be run with, the reason.
    """

    output = "weight"
    has_lengths = True
    misfits: ClassVar[dict[str, str]] = {}

    def __init__(self, shapes: dict[str, tuple[int, ...]], replicas: int, device: torch.device | str):
        """Allocate the parameters, all zero. shapes: of one replica's parameters, in the order of layers."""
        self.shapes = shapes
        self.flops = FlopCount()
        # of one product of each weight matrix with one sample
        self.sample_flops = 2 * sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
        size = sum(map(math.prod, shapes.values()))
        self._adopt(torch.zeros(replicas, -(-size // ALIGNED) * ALIGNED, device=device))

    def double(self) -> "Head":
        """Convert the parameters to float64 in place, for comparisons to the last digits; return the head."""
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
        """Return an independent head with the same parameters and the same counter of operations."""
        twin = object.__new__(type(self))
        twin.shapes, twin.flops, twin.sample_flops = self.shapes, self.flops, self.sample_flops
        twin._adopt(self.vector.clone())
        return twin

    def initialise(self, seeds: list[int]) -> None:
        """Draw parameters uniformly in +-1/sqrt(fan-in), as torch.nn.Linear does; one generator per seed."""
        self._draw(seeds, list(self.shapes))

    def _draw(self, seeds: list[int], names: list[str]) -> None:
        for row, seed in enumerate(seeds):
            source = generator(seed, "init")
            for name in names:
                view = getattr(self, name)
                shape = self.shapes[name]
                fan_in = shape[1] if len(shape) == 2 else self.shapes[name.replace("bias", "weight")][1]
                draw = torch.rand(shape, generator=source) * 2 - 1
                view[row] = (draw / math.sqrt(fan_in)).to(view.device)

    @property
    def replicas(self) -> int:
        """R, the number of runs that advance together."""
        return self.vector.shape[0]

    @property
    def features(self) -> int:
        """D, the width of the pooled features."""
        return next(iter(self.shapes.values()))[1]

    @property
    def classes(self) -> int:
        """C, the number of classes of the whole stream."""
        return next(reversed(self.shapes.values()))[0]

    @property
    def bytes_per_replica(self) -> int:
        """Size of one replica's parameters."""
        return sum(map(math.prod, self.shapes.values())) * self.vector.element_size()

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(R, B, D) -> (R, B, C)."""
        raise NotImplementedError  # abstract

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the last layer gets, (R, B, F), for x (R, B, D)."""
        raise NotImplementedError  # abstract

    @property
    def embedding_width(self) -> int:
        """F, the width of what the last layer gets."""
        return list(self.shapes.values())[-2][1]

    def input_gradient(self, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        """d(slope . logits)/dx: (R, B, D) for slope (R, B, C)."""
        raise NotImplementedError  # abstract

    def _accumulate(self, into: dict[str, torch.Tensor], loss: Loss, scale: float) -> None:
        """Add `scale` times the loss's gradient to each parameter in `into`."""
        raise NotImplementedError  # abstract

    def cross_entropy(self, batch: Batch) -> Loss:
        """Return the mean softmax cross-entropy over the batch; d/dlogits = (softmax - one-hot) / B."""
        slope = self.logits(batch.x).softmax(-1)
        slope.scatter_add_(2, batch.y.unsqueeze(2), _minus_one(slope))
        return Loss([(batch.x, slope, 1 / batch.x.shape[1])])

    def logit_mse(self, batch: Batch, target: torch.Tensor) -> Loss:
        """Return the mean over samples and classes of (logits - target)^2; target (R, B, C)."""
        slope = self.logits(batch.x) - target
        return Loss([(batch.x, slope, 2 / slope[0].numel())])

    def loss(self, x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> Loss:
        """Return any loss that is a function of the logits of x (R, B, D), written in plain torch.

        function: takes the logits (R, B, C) and returns the loss of each replica, (R,). Autograd
        differentiates it by the logits alone; all other tensors that it uses are constants. Raises ValueError
        for another shape, since a mean over replicas would scale every gradient by 1 / R.
        """
        with torch.enable_grad():
            logits = self.logits(x).detach().requires_grad_()
            values = function(logits)
            if values.shape != (self.replicas,):
                shape = tuple(values.shape)
                raise ValueError(f"a loss must have shape (R,) = ({self.replicas},), but this has {shape}")
            (slope,) = torch.autograd.grad(values.sum(), logits)
        return Loss([(x, slope, 1.0)])

    def gradient(self, loss: Loss) -> torch.Tensor:
        """Return the gradient (R, P) of each replica's loss by its own parameters."""
        gradient = torch.zeros_like(self.vector)
        self.flops.samples += loss.samples
        self._accumulate(self._views(gradient), loss, 1.0)
        return gradient

    def fisher(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """Return the diagonal of the Fisher matrix (R, P), summed over samples x (R, B, D).

        It is the expected squared gradient of log p(y | x). y: labels (R, B), whose squared gradients alone
        are taken (the empirical Fisher matrix); None for the expectation over labels drawn from the head's
        predictions.
        """
        fisher = torch.zeros_like(self.vector)
        self.flops.samples += x.shape[1]
        p = self.logits(x).softmax(-1)
        self._accumulate_fisher(self._views(fisher), x, p, y)
        return fisher

    def _accumulate_fisher(
        self, into: dict[str, torch.Tensor], x: torch.Tensor, p: torch.Tensor, y: torch.Tensor | None
    ) -> None:
        """Add the diagonal of the Fisher matrix for predictions p (R, B, C) to each parameter in `into`."""
        raise NotImplementedError  # abstract

    @property
    def output_weight(self) -> torch.Tensor:
        """The weights of the last layer, (R, C, F), a view into the parameters."""
        return getattr(self, self.output)

    def align(self, old: Sequence[int], new: Sequence[int]) -> None:
        """Scale the output weights of new classes to the mean length of those of old classes.

        old, new: labels, at least one of each. Biases stay as they are.
        """
        weight = self.output_weight
        lengths = torch.linalg.vector_norm(weight, dim=2)
        ratio = lengths[:, list(old)].mean(1) / lengths[:, list(new)].mean(1).clamp_min(SHORTEST)
        weight[:, list(new)] *= ratio[:, None, None]

    def descend(self, loss: Loss, lr: float) -> None:
        """Take one step of plain SGD."""
        self.flops.samples += loss.samples
        self._accumulate(self._views(self.vector), loss, -lr)


def expected_squares(p: torch.Tensor, y: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the squares of d log p(y | x) / d logits (R, B, C), and with labels y that slope itself.

    p (R, B, C): predictions. y (R, B): labels; None for the expectation over labels drawn from p, whose slope
    is 0 on average and whose squares are p (1 - p).
    """
    if y is None:
        return p * (1 - p), None
    slope = p.scatter_add(2, y.unsqueeze(2), _minus_one(p))
    return slope.square(), slope


_MINUS_ONES: dict[tuple, torch.Tensor] = {}


def _minus_one(like: torch.Tensor) -> torch.Tensor:
    """Return (R, B, 1) filled with -1, cached by shape to save an allocation per minibatch."""
    key = (like.shape[:2], like.device, like.dtype)
    if key not in _MINUS_ONES:
        _MINUS_ONES[key] = like.new_full((*like.shape[:2], 1), -1.0)
    return _MINUS_ONES[key]
