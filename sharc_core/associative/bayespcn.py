"""BayesPCN (Yoo & Wood 2022, arXiv 2205.09930): a predictive coding network that learns in closed form.

Layers are x_l | x_{l+1} ~ N(phi(x_{l+1}) R_l, sigma^2 I) with a matrix-normal posterior over each layer's
weights. The bottom x_0 is the map. The top layer is a normal whose mean is learnt. Writing finds the mode of
the hidden layers given the maps (Adam), then updates each layer's posterior by conjugacy. The clamped entries
of a map enter through Gram matrices (see matrix_normal.py), so a step costs hidden^2 per map instead of
hidden x map size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory, by_mask
from sharc_core.associative.batches import chunked, sections, side_by_side
from sharc_core.associative.bayespcn_flops import step_flops, update_flops
from sharc_core.associative.cues import Cues, MaskedWeights
from sharc_core.associative.gradient_steps import Adam, phi, phi_back
from sharc_core.associative.matrix_normal import (
    LOG_TWO_PI,
    Grams,
    Noise,
    cross_of,
    gain_of,
    gram_flops,
    gram_of,
    learn_rows,
)
from sharc_core.associative.posterior import Posterior
from sharc_core.associative.row_covariance import RowCovariance
from sharc_core.common.deferred import torch
from sharc_core.common.flops import FlopCount
from sharc_core.common.phases import READING, phase
from sharc_core.common.seeds import generator
from sharc_core.common.settings import Settings as BaseSettings

REFRESH = 32  # batches after which R R^T and X R^T, which are updated in between, are recomputed from R
TOGETHER = 16  # masks read in parallel, because a step on a few rows is mostly overhead
STACK = 100  # cues whose steps share a pass over the weights
GPU_STACK = 2**26  # on a GPU, in entries of maps


@dataclass
class Layer:
    """Posterior of one layer's weights: mean R (m, d), row covariance U (m, m) float64."""

    mean: torch.Tensor
    covariance: torch.Tensor


@ASSOCIATIVE_MEMORIES.register("bayespcn")
class BayesPCN(AssociativeMemory):
    """The procedure of the authors' code, with their values as defaults.

    Maps are written, and cues are read, `batch` at a time and in order. Both start the hidden units from
    normal draws and take up to `steps` Adam steps. Writing with the predictive log joint couples the maps of
    a batch, because the weights are integrated out for all of them. Reading takes each cue alone. It
    optimises hidden units and unobserved entries together, the latter from zero, and returns the final
    entries, which differ from the network's prediction.

    The state is float32 bottom weights and float64 for everything else. Prior means are normal with a
    standard deviation of 1 / sqrt(size of the layer below), and 1 / sqrt(hidden) for the top (as in the
    authors' code). They are drawn from the seed when needed and cost no bytes. U stays positive definite
    because every update subtracts T^T T from it in float64, with the Cholesky factor of S >= sigma^2 I. U is
    never inverted.
    """

    class Settings(BaseSettings):
        """layers: number of layers including the map; 2 is the map and one hidden layer.

        log_joint: "predictive" integrates the weights out, "map" takes their posterior mean. write_start,
        read_start: hidden units start from normal draws or from a constant. coupled_reading: the predictive
        log joint couples cues that share a mask, as it couples maps in writing. unobserved: "joint" optimises
        unobserved entries with the hidden units, "exact" maximises over them in closed form (they equal
        their prediction). tolerance: a batch stops when none of its log joints changes by more; null takes
        all `steps`. A batch has one log joint if its rows are coupled, otherwise one per row.
        """

        layers: int = Field(default=2, ge=2, le=8)
        hidden: int = Field(default=256, ge=1, le=8192)
        activation: Literal["relu", "gelu", "none"] = "relu"
        sigma_prior: float = Field(default=1.0, ge=1e-4, le=1e4, allow_inf_nan=False)
        sigma_obs: float = Field(default=0.01, ge=1e-4, le=1e4, allow_inf_nan=False)
        log_joint: Literal["predictive", "map"] = "predictive"
        write_start: Literal["normal", "constant"] = "normal"
        read_start: Literal["normal", "constant"] = "normal"
        coupled_reading: bool = False
        unobserved: Literal["joint", "exact"] = "joint"
        steps: int = Field(default=500, ge=1)
        lr: float = Field(default=0.01, gt=0, le=100, allow_inf_nan=False)
        batch: int = Field(default=10, ge=1, le=2**20)
        tolerance: float | None = Field(default=1e-3, ge=0, allow_inf_nan=False)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        prior, s = self.settings.sigma_prior**2, self.settings
        means, self.top_mean = self._prior_means()
        eye = torch.eye(s.hidden, dtype=torch.float64, device=self.device)
        self.layers = [Layer(mean, prior * eye) for mean in means]
        self.top_variance = prior

    def _prior_means(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the prior means of the layers' weights, each (hidden, size), and of the top (hidden,)."""
        source, hidden = generator(self.seed, "bayespcn"), self.settings.hidden
        sizes = [self.size] + [hidden] * (self.settings.layers - 2)
        means = []
        for level, size in enumerate(sizes):
            draw = torch.randn(hidden, size, generator=source) / math.sqrt(size)
            means.append(draw.to(self.device, torch.float64 if level else torch.float32))
        top = torch.randn(hidden, generator=source, dtype=torch.float64) / math.sqrt(hidden)
        return means, top.to(self.device)

    def draw_start(self, what: str, offset: int, count: int) -> torch.Tensor:
        """Return the initial hidden units (count, (layers - 1) * hidden) float64 of optimisations.

        what: "write" or "read". offset: position of the first map in the call. A map's draw depends on the
        seed, on the number of maps written before the call and on its position in the call, not on the other
        maps.
        """
        s = self.settings
        width, scale = (s.layers - 1) * s.hidden, s.hidden**-0.5
        if (s.write_start if what == "write" else s.read_start) == "constant":
            return torch.full((count, width), scale, dtype=torch.float64, device=self.device)
        rows = []
        for row in range(offset, offset + count):
            source = generator(self.seed, "bayespcn", what, self.written, row)
            rows.append(torch.randn(width, generator=source, dtype=torch.float64))
        return (scale * torch.stack(rows)).to(self.device)

    # --- writing ---------------------------------------------------------------------------------

    def learn(self, maps, labels):
        """Learn maps (n, K, h, w) batch by batch: the mode of the hidden layers, then the conjugate updates.

        R R^T and X R^T are kept up to date within one write only. A later write starts from the state.
        """
        self.learn_all([self], [maps], [labels])

    @property
    def learns_together(self) -> bool:
        """On a GPU, because a step on the hidden units of one batch leaves it idle most of the time."""
        return self.device.type == "cuda"

    @classmethod
    def learn_all(cls, memories, maps, labels):
        """Learn maps as `learn` does, with the steps of all memories' hidden units as one stack."""
        first = memories[0]
        size, wide = first.settings.batch, torch.promote_types(maps[0].dtype, torch.float32)
        parts = list(zip(*(each.to(wide).flatten(1).split(size) for each in maps), strict=True))
        grams: list[Grams] = []
        offset = 0
        for number, part in enumerate(parts):
            if number % REFRESH == 0:
                grams = [memory._grams(x) for memory, x in zip(memories, part, strict=True)]
            for memory, its, x in zip(memories, grams, part, strict=True):
                memory._set_products(its, x)
            count = len(part[0])
            start = torch.stack([memory.draw_start("write", offset, count) for memory in memories])
            posterior = Posterior.stack([memory.posterior() for memory in memories])
            counts = [memory.flops for memory in memories]
            hidden = first.hidden_mode(Grams.stack(grams), start, posterior=posterior, counts=counts)
            then = parts[number + 1] if number + 1 < len(parts) else [x[:0] for x in part]
            for place, (memory, its) in enumerate(zip(memories, grams, strict=True)):
                layers = [layer[place] for layer in hidden]
                gram, cross = memory.update(part[place], layers, its, then[place])
                its.rr, its.xr = gram[None], cross[None]
            offset += count

    def _grams(self, x: torch.Tensor) -> Grams:
        """Return X R^T and R R^T of maps x (n, d) and the bottom weights, computed from these."""
        weights = self.layers[0].mean
        gram, (cross, _) = gram_of(weights), cross_of(x, weights)
        self.flops.shared += gram_flops(*weights.shape)
        self.flops.product(len(x), *weights.shape)
        return Grams(cross.new_empty(1, 0, 0), cross[None], gram[None], self.size)

    def _set_products(self, grams: Grams, x: torch.Tensor) -> None:
        """Set X X^T of maps x (n, d)."""
        wide = x.double()
        grams.xx = (wide @ wide.T)[None]
        self.flops.product(len(x), len(x), self.size)

    def update(
        self,
        x: torch.Tensor,
        hidden: list[torch.Tensor],
        grams: Grams | None = None,
        then: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Update every layer by conjugacy with maps x (n, d) and hidden layers, each (n, hidden) float64.

        grams: of x, before the update. then: maps (k, d) of the next batch. Returns the new R R^T
        (hidden, hidden), None without grams, and the products (k, hidden) of `then` with the new R, None
        without `then`; both float64.
        """
        variance = self.settings.sigma_obs**2
        sizes = [layer.mean.shape[1] for layer in self.layers]
        following = None if grams is None or then is None else len(then)
        self.flops.shared += update_flops(len(x), self.settings.hidden, sizes, following)
        below, gram, cross = x, None, None
        for level, (layer, above) in enumerate(zip(self.layers, hidden, strict=True)):
            z = phi(self.settings.activation, above)
            gain, covariance = gain_of(z, layer.covariance, variance)
            if level == 0 and grams is not None:
                gram = grams.updated(z, gain)
            products = learn_rows(layer.mean, below, z, gain, None if level else then)
            cross = cross if level else products
            layer.covariance = covariance
            below = above
        count = len(below)
        precision = count / variance + 1 / self.top_variance
        self.top_mean = (below.sum(0) / variance + self.top_mean / self.top_variance) / precision
        self.top_variance = 1 / precision
        return gram, cross

    # --- reading ---------------------------------------------------------------------------------

    def read_all(self, calls):
        """Yield what `read` returns for each call; on a GPU, the calls' steps are taken as one stack."""
        if not self.reads_together:
            yield from super().read_all(calls)
            return
        with phase(READING):
            placed = [[tensor.to(self.device) for tensor in call] for call in calls]
            maps, mask, labels = (torch.cat(parts) for parts in zip(*placed, strict=True))
            sizes = [len(its_labels) for *_, its_labels in placed]
            full = self._read((maps, mask, labels), partial(self._complete, sizes=sizes))
        yield from full.split(sizes)

    def complete(self, maps, mask, labels):
        """Return maps with unobserved entries at the mode of the log joint given the observed entries."""
        return self._complete(maps, mask, labels, [len(maps)])

    @property
    def reads_together(self) -> bool:
        """Whether `read_all` takes all calls at once: on a GPU, which one call leaves mostly idle."""
        return self.device.type == "cuda" and not self._couples_cues

    @property
    def _couples_cues(self) -> bool:
        return self.settings.coupled_reading and self.settings.log_joint == "predictive"

    def _complete(
        self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, sizes: list[int]
    ) -> torch.Tensor:
        """Do `complete` for several calls, with as many rows as `sizes` says. Coupled cues: for one call."""
        s, flat, posterior = self.settings, maps.flatten(1), self.posterior()
        start = torch.cat([self.draw_start("read", 0, size) for size in sizes])
        coupled = self._couples_cues
        if coupled and s.unobserved == "exact":
            return self._complete_from_grams(flat, mask, start, posterior).view_as(maps)
        out = torch.empty_like(flat)
        all_cues = torch.arange(len(flat), device=flat.device)
        for members in [rows for _, rows in by_mask(mask)] if coupled else [all_cues]:
            weights = MaskedWeights(self.layers[0].mean, mask[members], s.unobserved == "joint")
            parts = [len(members)] if coupled else sizes
            for chosen, index, rows in sections(parts, s.batch, 1 if coupled else self._stack(), self.device):
                subset = members[chosen]
                cues = Cues(weights, chosen, flat[subset], rows, s.lr, coupled)
                filled = None if bool(rows.all()) else rows
                hidden = self.hidden_mode(cues, start[subset][index], filled, posterior, coupled)
                out[subset] = cues.maps() if s.unobserved == "joint" else self._predict(hidden[0], rows, flat)
                self.flops.shared += cues.flops
            self.flops.shared += weights.flops
        return out.view_as(maps)

    def _stack(self) -> int:
        """Return how many batches of uncoupled cues share a pass over the weights."""
        cues = STACK if self.device.type == "cpu" else GPU_STACK // self.size
        return max(1, cues // self.settings.batch)

    def _predict(self, hidden: torch.Tensor, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Predict entries (r, d) from the lowest hidden layer (G, n, hidden), for the r rows that are 1."""
        z, weights = phi(self.settings.activation, hidden)[rows.squeeze(2) > 0], self.layers[0].mean
        self.flops.product(len(z), *weights.shape)
        return (z.to(weights.dtype) @ weights).to(like.dtype)

    def _complete_from_grams(
        self,
        flat: torch.Tensor,
        mask: torch.Tensor,
        start: torch.Tensor,
        posterior: Posterior,
    ) -> torch.Tensor:
        """Complete coupled cues (n, d), with unobserved entries maximised out; only observed ones enter."""
        positions = self.size // self.shape[0]
        weights, out = self.layers[0].mean, torch.empty_like(flat)
        small: list[tuple[torch.Tensor, Grams]] = []  # masks of one batch each, optimised in parallel

        def finish(members: torch.Tensor, grams: Grams, index: torch.Tensor, rows: torch.Tensor) -> None:
            filled = None if bool(rows.all()) else rows
            hidden = self.hidden_mode(grams, start[members][index], filled, posterior)[0]
            out[members] = self._predict(hidden, rows, flat)

        for observed, members in by_mask(mask):
            columns = observed.repeat_interleave(positions).nonzero().flatten()
            cross, x64 = cross_of(flat[members], weights, columns)
            index, rows = chunked(len(members), self.settings.batch, self.device)
            x64 = x64[index] * rows
            grams = Grams(x64 @ x64.mT, cross[index] * rows, gram_of(weights, columns), self.size)
            self.flops.shared += gram_flops(len(weights), len(columns))
            self.flops.product(len(members), len(weights), len(columns))
            self.flops.product(*x64.shape[:2], x64.shape[1], len(columns))
            if len(index) > 1:
                finish(members, grams, index, rows)
                continue
            small.append((members, grams))
            if len(small) == TOGETHER:
                finish(*side_by_side(small))
                small.clear()
        if small:
            finish(*side_by_side(small))
        return out

    # --- the hidden optimisation -----------------------------------------------------------------

    def hidden_mode(
        self,
        bottom: Grams | Cues,
        start: torch.Tensor,
        rows: torch.Tensor | None = None,
        posterior: Posterior | None = None,
        coupled: bool = True,
        counts: Sequence[FlopCount] | None = None,
    ) -> list[torch.Tensor]:
        """Find the mode of the log joint by Adam. Return the hidden layers, each (G, n, hidden) float64.

        bottom: G batches of maps; free entries of Cues are optimised with the hidden units. start: hidden
        units (G, n, (layers - 1) * hidden). rows (G, n, 1): 1 where a batch has a row, 0 at its padding; None
        without padding. posterior: the network, `posterior()` by default, or a stack with a network for each
        batch. counts: of operations, one for each batch; by default all belong to this memory. Each batch
        stops separately, so its result does not depend on the other batches.
        """
        s, state = self.settings, start.clone()
        posterior = posterior or self.posterior()
        per_step = step_flops(bottom, posterior.covariances, (1, state.shape[1], s.hidden), coupled)
        taken = [s.steps] * len(state)  # by each batch
        adam, mode = Adam(state, s.lr), torch.empty_like(state)
        active = torch.arange(len(state), device=state.device)
        before: Any = math.inf  # the log joint of the previous step
        with torch.inference_mode():  # avoids autograd's bookkeeping, which is noticeable in such small steps
            for step in range(1, s.steps + 1):
                value, gradient = self.log_joint(state, bottom, rows, posterior, coupled)
                adam.ascend(state, gradient)
                if s.tolerance is None:
                    continue
                moving = ((value - before).abs() > s.tolerance).any(1)
                before = value
                if not bool(moving.all()):
                    mode[active] = state  # final for the converged batches, which are removed
                    for batch in active[~moving].tolist():
                        taken[batch] = step
                    active, state, before = active[moving], state[moving], before[moving]
                    adam.keep(moving)
                    bottom, rows = bottom.of(moving), None if rows is None else rows[moving]
                    posterior = posterior.of(moving)
                    if not len(active):
                        break
            mode[active] = state
        for count, steps in zip(counts or [self.flops] * len(taken), taken, strict=True):
            count.shared += steps * per_step
        return list(mode.split(s.hidden, dim=2))

    def posterior(self) -> Posterior:
        """Return what the log joint needs of the state besides the bottom weights."""
        means = [layer.mean for layer in self.layers[1:]]
        return Posterior(means, self._row_covariances(), self.top_mean, self.top_variance)

    def _row_covariances(self) -> list[RowCovariance | None]:
        """Return each layer's row covariance for the log joint; None for log_joint "map"."""
        if self.settings.log_joint != "predictive":
            return [None] * len(self.layers)
        prior, variance = self.settings.sigma_prior**2, self.settings.sigma_obs**2
        covariances = [RowCovariance(layer.covariance, prior, variance) for layer in self.layers]
        self.flops.shared += sum(covariance.flops for covariance in covariances)
        return [*covariances]

    def log_joint(
        self,
        state: torch.Tensor,
        bottom: Grams | Cues,
        rows: torch.Tensor | None = None,
        posterior: Posterior | None = None,
        coupled: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log joint of maps and hidden layers and its gradient by the latter, shaped like `state`.

        The log joint is one number per batch, (G, 1), if rows are coupled (predictive form and `coupled`).
        Otherwise it is one number per row, (G, n). state: hidden layers (G, n, (layers - 1) * hidden). rows:
        and posterior: as in hidden_mode. Free entries of Cues take their step after this.
        """
        s, variance = self.settings, self.settings.sigma_obs**2
        posterior = posterior or self.posterior()
        hidden = state.split(s.hidden, dim=2) if len(self.layers) > 1 else (state,)
        total: Any = 0.0
        pulls = []  # gradient of each hidden layer from the layer that it predicts
        pushes = []  # minus its gradient from the layer that predicts it
        for level, (covariance, above) in enumerate(zip(posterior.covariances, hidden, strict=True)):
            z = _kept(phi(s.activation, above), rows)
            noise = Noise.of(z, covariance, variance, coupled)
            if level == 0:
                fit, error = bottom.products(z, noise)
            else:
                mean = posterior.means[level - 1]
                residual = _kept(hidden[level - 1], rows) - z @ mean
                fit = residual @ mean.mT
                error = residual @ residual.mT if noise.coupled else residual.square().sum(2)
                pushes.append(noise.weigh(residual))
            value, slope = noise.log_density(fit, error, s.hidden if level else bottom.columns)
            pulls.append(phi_back(s.activation, _kept(slope, rows), above))
            total = total + value
        spread = variance + (posterior.top_variance if s.log_joint == "predictive" else 0.0)
        off = _kept(hidden[-1] - posterior.top_mean, rows)
        value = -(off.square().sum(2) / spread + s.hidden * (LOG_TWO_PI + math.log(spread))) / 2
        value = value if rows is None else value * rows.squeeze(2)
        total = total + (value.sum(1, keepdim=True) if total.shape[1] < value.shape[1] else value)
        top = pulls.pop().sub_(off, alpha=1 / spread)
        gradients = [pull - push for pull, push in zip(pulls, pushes, strict=True)]
        return total, torch.cat([*gradients, top], 2) if gradients else top

    # --- forgetting and state --------------------------------------------------------------------

    def fade(self, beta):
        """Move to the prior: R <- a R + (1 - a) R_0 with a = sqrt(1 - beta), U <- (1 - beta) U + beta U_0."""
        keep, prior = math.sqrt(1 - beta), self.settings.sigma_prior**2
        means, top = self._prior_means()
        for layer, mean in zip(self.layers, means, strict=True):
            layer.mean = layer.mean * keep + mean * (1 - keep)
            layer.covariance = layer.covariance * (1 - beta)
            layer.covariance.diagonal().add_(beta * prior)
        self.top_mean = self.top_mean * keep + top * (1 - keep)
        self.top_variance = self.top_variance * (1 - beta) + beta * prior

    def tensors(self):
        """Return the means and covariances of all layers, and the top's mean and variance."""
        state: dict[str, torch.Tensor] = {}
        for level, layer in enumerate(self.layers):
            state |= {f"mean{level}": layer.mean, f"covariance{level}": layer.covariance}
        top = torch.tensor(self.top_variance, dtype=torch.float64, device=self.device)
        return state | {"top_mean": self.top_mean, "top_variance": top}

    def load_tensors(self, state):
        """Take over checked tensors, named as in `tensors`."""
        self.layers = [
            Layer(state[f"mean{level}"], state[f"covariance{level}"]) for level in range(len(self.layers))
        ]
        self.top_mean, self.top_variance = state["top_mean"], float(state["top_variance"])

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Return the bytes of float32 hidden x map size, and of float64 covariances, upper layers and top."""
        hidden, upper = settings.hidden, settings.layers - 2
        doubles = (settings.layers - 1) * hidden**2 + upper * hidden**2 + hidden + 1
        return 4 * hidden * math.prod(shape) + 8 * doubles


def _kept(x: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Set the padding rows of batches to zero."""
    return x if rows is None else x * rows
