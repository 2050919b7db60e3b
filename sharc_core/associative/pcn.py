"""Generative predictive coding network (Salvatori et al. 2021, arXiv 2109.08063)."""

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory, by_mask
from sharc_core.associative.gradient_steps import phi
from sharc_core.associative.predictive import Network, Products, Watch
from sharc_core.common.deferred import torch
from sharc_core.common.seeds import generator
from sharc_core.common.settings import Settings as BaseSettings

TOGETHER = 8  # least number of cues settled in parallel; this many products (h, h) fit a processor's cache


@ASSOCIATIVE_MEMORIES.register("pcn")
class PredictiveCoding(AssociativeMemory):
    """Layers x_0 (the flat map), x_1, ..., x_L, each predicted from the layer above, the top from mu.

    F = 1/2 sum_l |x_l - phi(x_{l+1}) W_l|^2 + 1/2 |x_L - mu|^2 (SHARC eq. 5). Writing alternates gradient
    steps on the hidden layers, with the map clamped, and steps on the weights and mu. Reading takes gradient
    steps on the hidden layers with the observed entries clamped. Unobserved entries equal their prediction at
    any optimum, so they are minimised out exactly and the energy covers the observed entries. All variances
    are 1, so the scale of the maps relative to the prior matters.
    """

    parts = ("weights", "uppers", "mean")

    class Settings(BaseSettings):
        """layers: counts the map, too. A write has `rounds` of hidden_steps and then weight_steps."""

        hidden: int = Field(default=256, ge=1, le=8192)
        layers: int = Field(default=2, ge=2, le=8)
        activation: Literal["relu", "gelu", "none"] = "relu"
        rounds: int = Field(default=50, ge=1)
        hidden_steps: int = Field(default=10, ge=1)
        weight_steps: int = Field(default=10, ge=1)
        momentum: float = Field(default=0.9, ge=0, lt=1, allow_inf_nan=False)
        read_steps: int = Field(default=100, ge=1)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights, self.uppers, self.mean = self._prior()

    def _prior(self) -> tuple[torch.Tensor, ...]:
        """Return the initial W_0 (h, d), weights between hidden layers (layers - 2, h, h) and mu (h,).

        They are pure functions of the seed and not part of the state. The weights are uniform in
        +-1 / sqrt(size of the layer below).
        """
        hidden, source = self.settings.hidden, generator(self.seed, "pcn")
        weights = 2 * torch.rand(hidden, self.size, generator=source) - 1
        uppers = 2 * torch.rand(self.settings.layers - 2, hidden, hidden, generator=source) - 1
        mean = torch.full((hidden,), hidden**-0.5)
        scaled = weights / self.size**0.5, uppers / hidden**0.5, mean
        return tuple(part.to(self.device) for part in scaled)

    def _network(self) -> Network:
        weights = [self.weights.double(), *self.uppers.double().unbind(0)]
        return Network(weights, self.mean.double(), self.settings.activation, self.flops)

    def learn(self, maps, labels, watch: Watch = None):
        """Fit maps (n, K, h, w) from the current weights. watch: receives the energies, for tests."""
        s = self.settings
        network = self._network()
        network.fit(maps.double().flatten(1), s.rounds, s.hidden_steps, s.weight_steps, s.momentum, watch)
        self.weights, self.mean = network.weights[0].float(), network.mean.float()
        if len(network.weights) > 1:
            self.uppers = torch.stack(network.weights[1:]).float()

    def complete(self, maps, mask, labels, watch: Watch = None):
        """Return the prediction phi(x_1) W_0 from hidden layers settled on the observed entries."""
        network, values = self._network(), maps.flatten(1)
        full = torch.empty_like(values)
        for rows, products in self._batches(values, mask, network.weights[0]):
            start = network.start(len(rows))
            units, _ = network.settle(start, products, self.settings.read_steps, watch=watch)
            self.flops.product(len(rows), *self.weights.shape)
            guess = phi(network.activation, units[:, 0]).float() @ self.weights
            full[rows] = guess.to(full.dtype)
        return full.view_as(maps)

    def _batches(
        self, values: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, Products]]:
        """Yield indices of cues, grouped by mask, and the products that the energy needs of them.

        Several masks are combined until there are TOGETHER cues, because a step on one cue is mostly
        overhead.
        """
        cues, parts = [], []
        for kept, rows in by_mask(mask):
            observed = kept.repeat_interleave(self.size // len(kept))
            cues.append(rows)
            self.flops.product(len(rows) + len(weights), len(weights), int(observed.sum()))
            parts.append(Products.of(values[rows][:, observed].double(), weights[:, observed]))
            if len(torch.cat(cues)) >= TOGETHER:
                yield torch.cat(cues), Products.together(parts)
                cues, parts = [], []
        if cues:
            yield torch.cat(cues), Products.together(parts)

    def fade(self, beta):
        """Move to the prior: W <- a W + (1 - a) W_prior with a = sqrt(1 - beta), and mu likewise."""
        stay = math.sqrt(1 - beta)
        now = self.weights, self.uppers, self.mean
        pairs = zip(now, self._prior(), strict=True)
        self.weights, self.uppers, self.mean = (stay * a + (1 - stay) * b for a, b in pairs)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Return the bytes of float32 weights and mu, independent of the number of samples."""
        hidden = settings.hidden
        return 4 * (hidden * math.prod(shape) + (settings.layers - 2) * hidden * hidden + hidden)
