"""Energy, hidden units and weights of a generative predictive coding network (Salvatori et al. 2021).

Maps x enter only through |x|^2, x W^T and W W^T over the entries that count, with the weights W to the map.
So a step on the hidden units costs hidden^2 per sample for any size of map. All numbers are float64, because
the energy is a small difference of large numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from sharc_core.associative.gradient_steps import phi, phi_back
from sharc_core.common.deferred import torch
from sharc_core.common.flops import FlopCount

Watch = Callable[[torch.Tensor], None] | None  # receives the energies (n,) at the start and after each step
FIRST_SIZE, GROW, SHRINK = 0.1, 1.1, 0.5  # step sizes of the hidden units


@dataclass
class Products:
    """The products of maps in the energy: squares (n,) = |x|^2, cross (n, h) = X W^T, gram (h, h) = W W^T.

    gram is (n, h, h) if the samples differ in the entries that count.
    """

    squares: torch.Tensor
    cross: torch.Tensor
    gram: torch.Tensor

    @classmethod
    def of(cls, maps: torch.Tensor, weights: torch.Tensor) -> "Products":
        """Compute the products of maps (n, m) and weights (h, m) over the m entries that count."""
        return cls(maps.square().sum(1), maps @ weights.T, weights @ weights.T)

    @classmethod
    def together(cls, parts: list["Products"]) -> "Products":
        """Concatenate samples with different sets of entries."""
        if len(parts) == 1:
            return parts[0]
        grams = [part.gram.expand(len(part.squares), -1, -1) for part in parts]
        squares, cross = torch.cat([p.squares for p in parts]), torch.cat([p.cross for p in parts])
        return cls(squares, cross, torch.cat(grams))


@dataclass
class Network:
    """A generative network.

    weights: (h, m) to the map, then (h, h) between hidden layers from the bottom up. mean: mu (h,) of the
    top. flops: counts the operations of its matrix products.
    """

    weights: list[torch.Tensor]
    mean: torch.Tensor
    activation: str
    flops: FlopCount = field(default_factory=FlopCount)

    def start(self, samples: int) -> torch.Tensor:
        """Return initial hidden units (n, layers, h), all positive so that every ReLU is active."""
        hidden = len(self.mean)
        return self.mean.new_full((samples, len(self.weights), hidden), hidden**-0.5)

    def energy(self, units: torch.Tensor, products: Products) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each sample's F (n,) and its gradient by hidden units (n, layers, h), lowest layer first."""
        samples, layers, hidden = units.shape
        self.flops.product(samples, hidden, hidden, 2 * layers - 1)
        active = phi(self.activation, units)
        through = active[:, :1] @ products.gram if products.gram.ndim == 3 else active[:, 0] @ products.gram
        through = through.view_as(products.cross)
        on_map = products.squares + (active[:, 0] * (through - 2 * products.cross)).sum(1)
        uppers = list(enumerate(self.weights[1:]))
        means = [active[:, i + 1] @ weights for i, weights in uppers]
        errors = units - torch.stack([*means, self.mean.expand_as(units[:, 0])], 1)
        # gradient by a layer's activity: minus the error of the layer below times the weights in between
        pulls = [through - products.cross] + [-errors[:, i] @ weights.T for i, weights in uppers]
        energy = (on_map + errors.square().sum((1, 2))) / 2
        return energy, errors + phi_back(self.activation, torch.stack(pulls, 1), units)

    def settle(
        self,
        units: torch.Tensor,
        products: Products,
        steps: int,
        sizes: torch.Tensor | None = None,
        watch: Watch = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take gradient steps on the hidden units (n, layers, h) that never raise a sample's energy.

        sizes: the samples' step sizes (n,). A step that would raise the energy is rejected and shrinks its
        sample's step size. An accepted step increases it. Returns the units and the sizes.
        """
        sizes = torch.full_like(units[:, 0, 0], FIRST_SIZE) if sizes is None else sizes
        energy, gradient = self.energy(units, products)
        if watch:
            watch(energy)
        for _ in range(steps):
            trial = units - sizes[:, None, None] * gradient
            trial_energy, trial_gradient = self.energy(trial, products)
            taken = trial_energy <= energy
            units = torch.where(taken[:, None, None], trial, units)
            gradient = torch.where(taken[:, None, None], trial_gradient, gradient)
            energy = torch.where(taken, trial_energy, energy)
            sizes = torch.where(taken, GROW * sizes, SHRINK * sizes)
            if watch:
                watch(energy)
        return units, sizes

    def fit(
        self,
        maps: torch.Tensor,
        rounds: int,
        hidden_steps: int,
        weight_steps: int,
        momentum: float,
        watch: Watch = None,
    ) -> None:
        """Learn maps (n, m) in place. Steps on the hidden units alternate with steps on weights and mean.

        Every step on the weights to the map adds combinations of the maps and of these weights. So the
        weights stay in the span of the maps and the initial weights. All steps are computed in an orthonormal
        basis of that span, with at most h + n numbers per row instead of m. This changes no inner product,
        and therefore no result.
        """
        before = self.weights[0]
        rows, basis = in_own_span(torch.cat([before, maps]))
        self._count_fit(rows, basis, len(maps), rounds, weight_steps)
        maps, first = rows[len(before) :], rows[: len(before)]
        self.weights[0] = first
        velocities = [torch.zeros_like(weights) for weights in self.weights]
        units, sizes = self.start(len(maps)), None
        for _ in range(rounds):
            products = Products.of(maps, self.weights[0])
            units, sizes = self.settle(units, products, hidden_steps, sizes, watch)
            inputs = phi(self.activation, units).unbind(1)
            targets = [maps, *units.unbind(1)]
            for level, weights in enumerate(self.weights):
                self.weights[level] = descend(
                    weights, velocities[level], inputs[level], targets[level], weight_steps, momentum
                )
            self.mean = units[:, -1].mean(0)  # the gradient step of size 1 / n
        # add the change only, so that components too small for the basis are kept
        self.weights[0] = before + (self.weights[0] - first) @ basis

    def _count_fit(
        self, rows: torch.Tensor, basis: torch.Tensor, samples: int, rounds: int, weight_steps: int
    ) -> None:
        """Count the operations of `fit` except those of `settle`. For rows and basis see `in_own_span`."""
        (count, width), hidden = rows.shape, len(self.mean)
        if count < basis.shape[1]:
            self.flops.product(count, count + width, basis.shape[1])
        self.flops.product(samples + hidden, hidden, width, rounds)  # X W^T and W W^T
        for level in range(len(self.weights)):
            target = hidden if level else width
            self.flops.product(min(samples, hidden), samples, hidden, rounds)  # Gram matrix of the inputs
            self.flops.product(2 * samples, hidden, target, weight_steps, rounds)
        self.flops.product(hidden, *basis.shape)


def descend(
    weights: torch.Tensor,
    velocity: torch.Tensor,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    steps: int,
    momentum: float,
) -> torch.Tensor:
    """Take Nesterov steps on |targets - inputs weights|^2 / 2. Return the weights; update `velocity`.

    The step size is 1 over a bound on the largest eigenvalue of inputs^T inputs (its largest absolute row
    sum). Without momentum, such a step cannot raise the error. For inputs of one sign, the bound is nearly
    tight.
    """
    gram = inputs @ inputs.T if len(inputs) < inputs.shape[1] else inputs.T @ inputs
    size = 1 / gram.abs().sum(0).amax().clamp_min(1e-12)
    for _ in range(steps):
        ahead = weights + momentum * velocity
        new = ahead + size * (inputs.T @ (targets - inputs @ ahead))
        velocity.copy_(new - weights)
        weights = new
    return weights


def in_own_span(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows (r, d) as coordinates (r, k), and an orthonormal basis (k, d) of their span."""
    count, size = rows.shape
    if count >= size:
        return rows, torch.eye(size, dtype=rows.dtype, device=rows.device)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    kept = values > 1e-14 * values[-1]  # the rest is rounding
    vectors, scale = vectors[:, kept], values[kept].sqrt()
    return vectors * scale, (vectors / scale).T @ rows
