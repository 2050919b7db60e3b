"""BayesPCN (Yoo & Wood 2022, arXiv 2205.09930): a predictive coding network that learns in closed form.

Layers x_l | x_{l+1} ~ N(phi(x_{l+1}) R_l, sigma^2 I), the bottom x_0 being the map, with a matrix-normal
posterior over every layer's weights; the top layer is a normal whose mean is learnt. Writing finds the
mode of the hidden layers given the maps (Adam), then updates each layer's posterior by conjugacy. The
hidden optimisation runs on Gram matrices (see matrix_normal.py): a step costs hidden^2 per map instead of
hidden x map size, and finds the same optimum.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from sharc_core.associative.activations import phi, phi_back
from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.associative.groups import by_mask, chunked
from sharc_core.associative.matrix_normal import (
    Grams,
    cross_of,
    gain_of,
    gram_of,
    learn_rows,
    log_joint,
)
from sharc_core.associative.row_covariance import RowCovariance
from sharc_core.seeds import generator
from sharc_core.settings import Settings as BaseSettings

REFRESH = 32  # batches after which R R^T and X R^T, kept up to date, are formed anew from R
TOGETHER = 16  # masks read side by side: a step on a few rows is mostly overhead
ADAM = (0.9, 0.999, 1e-8)


@dataclass
class Layer:
    """Posterior of one layer's weights: mean R (m, d), row covariance U (m, m) float64."""

    mean: torch.Tensor
    covariance: torch.Tensor


@ASSOCIATIVE_MEMORIES.register("bayespcn")
class BayesPCN(AssociativeMemory):
    """Maps are written `batch` at a time, in order; cues that share a mask are read `batch` at a time.

    log_joint "predictive" integrates the weights out, which couples the maps of a batch (as published);
    "map" takes the posterior mean for the weights. Reading clamps the observed entries; the others are
    maximised out exactly (they equal their prediction), so only observed columns enter.

    State: float32 bottom weights, float64 everything else. The prior means, normal with a standard
    deviation of 1 / sqrt(size of the layer below), the top's of 1 / sqrt(hidden) (as in the authors' code),
    are drawn from the seed again when they are needed, and so cost no bytes. U stays positive definite
    because every update subtracts T^T T from it in float64 with the Cholesky factor of S >= sigma^2 I (no
    inverse of U is ever taken).
    """

    class Settings(BaseSettings):
        """The published values. layers counts the map: 2 is the map and one hidden layer.

        tolerance: a batch stops early once its log joint moves by no more; null runs all `steps`.
        """

        layers: int = Field(default=2, ge=2, le=8)
        hidden: int = Field(default=256, ge=1, le=8192)
        activation: Literal["relu", "gelu", "none"] = "relu"
        sigma_prior: float = Field(default=1.0, ge=1e-4, le=1e4, allow_inf_nan=False)
        sigma_obs: float = Field(default=0.01, ge=1e-4, le=1e4, allow_inf_nan=False)
        log_joint: Literal["predictive", "map"] = "predictive"
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
        """Prior means of the layers' weights and of the top, from the seed."""
        source, hidden = generator(self.seed, "bayespcn"), self.settings.hidden
        sizes = [self.size] + [hidden] * (self.settings.layers - 2)
        means = []
        for level, size in enumerate(sizes):
            draw = torch.randn(hidden, size, generator=source) / math.sqrt(size)
            means.append(draw.to(self.device, torch.float64 if level else torch.float32))
        top = torch.randn(hidden, generator=source, dtype=torch.float64) / math.sqrt(hidden)
        return means, top.to(self.device)

    # --- writing ---------------------------------------------------------------------------------

    def learn(self, maps, labels):
        """Batch by batch: mode of the hidden layers, then the conjugate updates.

        R R^T and X R^T are kept up to date within a write alone: all that a later one starts from is in the
        state.
        """
        parts = maps.float().flatten(1).split(self.settings.batch)
        gram, cross = None, None
        for number, part in enumerate(parts):
            if number % REFRESH == 0:
                gram, (cross, _) = gram_of(self.layers[0].mean), cross_of(part, self.layers[0].mean)
            x64 = part.double()
            grams = Grams((x64 @ x64.T)[None], cross[None], gram[None], self.size)
            hidden = [layer[0] for layer in self.hidden_mode(grams)]
            then = parts[number + 1] if number + 1 < len(parts) else part[:0]
            gram, cross = self.update(part, hidden, grams, then)

    def update(
        self,
        x: torch.Tensor,
        hidden: list[torch.Tensor],
        grams: Grams | None = None,
        then: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Conjugate update of every layer with maps x (n, d) and hidden layers, each (n, hidden) float64.

        grams: of x, before; then: maps (k, d) that come next. What follows from each is returned, R R^T
        (hidden, hidden) and their products (k, hidden) with R, float64.
        """
        variance = self.settings.sigma_obs**2
        below, gram, cross = x, None, None
        for level, (layer, above) in enumerate(zip(self.layers, hidden, strict=True)):
            z = phi(self.settings.activation, above)
            gain, covariance = gain_of(z, layer.covariance, variance)
            if level == 0 and grams is not None:
                gram = _updated_gram(grams, z, gain)
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

    def complete(self, maps, mask, labels):
        """Prediction of every entry from the hidden mode given the observed ones."""
        flat, covariances = maps.flatten(1), self._row_covariances()
        positions = self.size // self.shape[0]
        weights, out = self.layers[0].mean, torch.empty_like(flat)
        small: list[tuple[torch.Tensor, Grams]] = []  # masks of one batch each, optimised side by side

        def finish(members: torch.Tensor, grams: Grams, rows: torch.Tensor) -> None:
            hidden = self.hidden_mode(grams, None if bool(rows.all()) else rows, covariances)[0]
            z = phi(self.settings.activation, hidden)[rows.squeeze(2) > 0]
            out[members] = (z.to(weights.dtype) @ weights).to(out.dtype)

        for observed, members in by_mask(mask):
            columns = observed.repeat_interleave(positions).nonzero().flatten()
            cross, x64 = cross_of(flat[members], weights, columns)
            index, rows = chunked(len(members), self.settings.batch, self.device)
            x64 = x64[index] * rows
            grams = Grams(x64 @ x64.mT, cross[index] * rows, gram_of(weights, columns), self.size)
            if len(index) > 1:
                finish(members, grams, rows)
                continue
            small.append((members, grams))
            if len(small) == TOGETHER:
                finish(*_side_by_side(small))
                small.clear()
        if small:
            finish(*_side_by_side(small))
        return out.view_as(maps)

    # --- the hidden optimisation -----------------------------------------------------------------

    def hidden_mode(
        self,
        grams: Grams,
        rows: torch.Tensor | None = None,
        covariances: list[RowCovariance | None] | None = None,
    ) -> list[torch.Tensor]:
        """Hidden layers, each (G, n, hidden) float64, at the mode of the log joint, by Adam.

        rows (G, n, 1): 1 where a batch has a row, 0 where it was filled up; None: there all are rows.
        covariances: _row_covariances(), for who has them already. Each batch stops on its own, so what it
        ends at does not depend on the company.
        """
        s = self.settings
        shape = (*grams.xr.shape[:2], (s.layers - 1) * s.hidden)
        state = grams.xr.new_full(shape, s.hidden**-0.5)
        first, second = torch.zeros_like(state), torch.zeros_like(state)
        decay1, decay2, epsilon = ADAM
        mode, active = torch.empty_like(state), torch.arange(len(state), device=state.device)
        before = state.new_full((len(state),), math.inf)
        covariances = covariances or self._row_covariances()
        with torch.inference_mode():  # without autograd's bookkeeping, which shows in steps as small as these
            for step in range(1, s.steps + 1):
                value, gradient = self.log_joint(state, grams, rows, covariances, s.tolerance is not None)
                first.lerp_(gradient, 1 - decay1)
                second.mul_(decay2).addcmul_(gradient, gradient, value=1 - decay2)
                # Adam's bias corrections, moved into the step and epsilon
                correction = math.sqrt(1 - decay2**step)
                scale = second.sqrt().add_(epsilon * correction)
                state.addcdiv_(first, scale, value=s.lr * correction / (1 - decay1**step))
                if s.tolerance is not None:
                    moving = (value - before).abs() > s.tolerance
                    before = value
                    if not bool(moving.all()):
                        mode[active] = state  # final for those that no longer move, which go
                        active, state, first, second, before = (
                            each[moving] for each in (active, state, first, second, before)
                        )
                        grams, rows = grams.of(moving), None if rows is None else rows[moving]
                        if not len(active):
                            break
            mode[active] = state
        return list(mode.split(s.hidden, dim=2))

    def _row_covariances(self) -> list[RowCovariance | None]:
        """Of each layer, for the log joint; None where that takes the weights for their mean."""
        if self.settings.log_joint != "predictive":
            return [None] * len(self.layers)
        prior, variance = self.settings.sigma_prior**2, self.settings.sigma_obs**2
        return [RowCovariance(layer.covariance, prior, variance) for layer in self.layers]

    def log_joint(
        self,
        state: torch.Tensor,
        grams: Grams,
        rows: torch.Tensor | None = None,
        covariances: list[RowCovariance | None] | None = None,
        with_value: bool = True,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Log joint of maps and hidden layers (up to a constant), (G,), and its gradient by the latter.

        state (G, n, (layers - 1) * hidden); rows as in hidden_mode; covariances: _row_covariances().
        """
        s, variance = self.settings, self.settings.sigma_obs**2
        predictive = s.log_joint == "predictive"
        covariances = covariances or self._row_covariances()
        hidden = state.split(s.hidden, dim=2) if len(self.layers) > 1 else (state,)
        total = state.new_zeros(len(state)) if with_value else None
        pulls = []  # of each hidden layer, by the layer that it predicts
        pushes = []  # by the layer that predicts it
        for level, (layer, covariance, above) in enumerate(
            zip(self.layers, covariances, hidden, strict=True)
        ):
            z = _kept(phi(s.activation, above), rows)
            if level > 0:  # a hidden layer is small: its Gram matrices are formed on the spot
                below = _kept(hidden[level - 1], rows)
                grams = Grams(below @ below.mT, below @ layer.mean.T, layer.mean @ layer.mean.T, s.hidden)
                residual = below - z @ layer.mean
                if covariance is None:
                    pushes.append(residual / variance)
                else:
                    pushes.append(torch.linalg.solve(covariance.coupled(z)[1], residual))
            value, slope = log_joint(z, grams, covariance, variance, with_value)
            pulls.append(phi_back(s.activation, _kept(slope, rows), above))
            total = total + value if with_value else None
        spread = variance + (self.top_variance if predictive else 0.0)
        off = _kept(hidden[-1] - self.top_mean, rows)
        if with_value:
            total = total - off.square().sum((1, 2)) / (2 * spread)
        top = pulls.pop().sub_(off, alpha=1 / spread)
        gradients = [pull - push for pull, push in zip(pulls, pushes, strict=True)]
        return total, torch.cat([*gradients, top], 2) if gradients else top

    # --- forgetting and state --------------------------------------------------------------------

    def fade(self, beta):
        """Towards the prior: R <- a R + (1 - a) R_0 with a = sqrt(1 - beta), U <- (1 - beta) U + beta U_0."""
        keep, prior = math.sqrt(1 - beta), self.settings.sigma_prior**2
        means, top = self._prior_means()
        for layer, mean in zip(self.layers, means, strict=True):
            layer.mean = layer.mean * keep + mean * (1 - keep)
            layer.covariance = layer.covariance * (1 - beta)
            layer.covariance.diagonal().add_(beta * prior)
        self.top_mean = self.top_mean * keep + top * (1 - keep)
        self.top_variance = self.top_variance * (1 - beta) + beta * prior

    def tensors(self):
        """Means and covariances of all layers, the top's mean and variance."""
        state = {}
        for level, layer in enumerate(self.layers):
            state |= {f"mean{level}": layer.mean, f"covariance{level}": layer.covariance}
        top = torch.tensor(self.top_variance, dtype=torch.float64, device=self.device)
        return state | {"top_mean": self.top_mean, "top_variance": top}

    def load_tensors(self, state):
        """Take over all of it."""
        self.layers = [
            Layer(state[f"mean{level}"], state[f"covariance{level}"]) for level in range(len(self.layers))
        ]
        self.top_mean, self.top_variance = state["top_mean"], float(state["top_variance"])

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Float32 hidden x map size; float64 covariances, upper layers and top."""
        hidden, upper = settings.hidden, settings.layers - 2
        doubles = (settings.layers - 1) * hidden**2 + upper * hidden**2 + hidden + 1
        return 4 * hidden * math.prod(shape) + 8 * doubles


def _kept(x: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Zero in the rows that only fill a batch up."""
    return x if rows is None else x * rows


def _side_by_side(parts: list[tuple[torch.Tensor, Grams]]) -> tuple[torch.Tensor, Grams, torch.Tensor]:
    """Batches of different masks and sizes as one stack, the smaller ones filled up: members, Grams, rows."""
    sizes = [len(members) for members, _ in parts]
    most = max(sizes)
    like = parts[0][1].xr
    xx, xr = like.new_zeros(len(parts), most, most), like.new_zeros(len(parts), most, like.shape[2])
    rows = like.new_zeros(len(parts), most, 1)
    for g, (size, (_, grams)) in enumerate(zip(sizes, parts, strict=True)):
        xx[g, :size, :size], xr[g, :size], rows[g, :size] = grams.xx[0], grams.xr[0], 1
    stack = Grams(xx, xr, torch.stack([grams.rr for _, grams in parts]), parts[0][1].columns)
    return torch.cat([members for members, _ in parts]), stack, rows


def _updated_gram(grams: Grams, z: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """(R + G D)(R + G D)^T from R R^T and what D = X - Z R is to R and to itself."""
    cross, rr = grams.xr[0], grams.rr[0]
    to_old = cross - z @ rr  # D R^T
    error = grams.xx[0] - cross @ z.T - z @ to_old.T  # D D^T
    half = gain @ to_old
    return rr + half + half.T + gain @ ((error + error.T) / 2) @ gain.T
