"""Classical Hopfield network (Hopfield 1982): one weight matrix over bipolar patterns."""

import math
from typing import Literal

from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory, faded
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.seeds import generator
from sharc_core.common.settings import Settings as BaseSettings


@ASSOCIATIVE_MEMORIES.register("hopfield")
class Hopfield(AssociativeMemory):
    """Maps as bipolar patterns s = sign(x - threshold), completed by updates s_i <- sign(sum_j W_ij s_j).

    Rule "hebbian": W = sum s s' / N without its diagonal. Rule "pseudo_inverse": the projection onto the span
    of the patterns (Personnaz et al. 1986), built by orthogonalising each new pattern, also without its
    diagonal. Thresholds are computed at the first write, as a unit's median (of an even number, half way
    between the two middle values) or its mean ("sign of centred values"). They stay fixed, because stored
    patterns cannot be binarised again. A completed unit gets the mean of the written values on its side of
    the threshold. Dropped units start undecided (0). Observed units are clamped.
    """

    parts = ("weights", "threshold", "sums", "counts")

    class Settings(BaseSettings):
        """max_bytes: limit on the bytes of the state. updates: largest number of sweeps."""

        rule: Literal["hebbian", "pseudo_inverse"] = "pseudo_inverse"
        threshold: Literal["median", "mean"] = "median"
        update: Literal["synchronous", "asynchronous"] = "synchronous"
        updates: int = Field(default=20, ge=1)
        max_bytes: int = Field(default=2**30, ge=1)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.planned_bytes(self.settings, self.shape, self.classes, 0)  # raises UserError for too large maps
        zeros = torch.zeros(self.size, device=self.device)
        self.threshold = zeros.clone()
        self.sums = torch.stack([zeros, zeros])  # of written values below and above the threshold
        self.counts = torch.stack([zeros, zeros])
        self.weights = torch.zeros(self.size, self.size, device=self.device)

    def bipolar(self, values: torch.Tensor) -> torch.Tensor:
        """Convert values (n, N) to patterns of -1 and +1."""
        return torch.where(values > self.threshold, 1.0, -1.0)

    def learn(self, maps, labels):
        """Binarise maps (n, K, h, w) at the thresholds and add them to the weights by the rule."""
        values = maps.float().flatten(1)
        if not self.written:
            self.threshold = middle(values) if self.settings.threshold == "median" else values.mean(0)
        patterns = self.bipolar(values)
        for side, chosen in enumerate((patterns < 0, patterns > 0)):
            self.sums[side] += (values * chosen).sum(0)
            self.counts[side] += chosen.sum(0)
        if self.settings.rule == "hebbian":
            self.flops.product(self.size, len(patterns), self.size)
            self.weights.addmm_(patterns.T, patterns, alpha=1 / self.size)
            return
        for pattern in patterns:
            # Add the part of the pattern that W does not reproduce, so that W s = s afterwards. While W is a
            # projection, this is Gram-Schmidt. It remains valid after forgetting has faded W: I - W loses its
            # part along s (a Schur complement), so it stays positive semi-definite and keeps its null space.
            rest = pattern - self.weights @ pattern
            energy = float(rest @ pattern)
            self.flops.product(self.size, self.size)
            if energy > 1e-4 * self.size:  # else W already reproduces it
                self.flops.product(self.size, self.size)
                self.weights.addr_(rest, rest, alpha=1 / energy)

    def complete(self, maps, mask, labels):
        """Update the units of dropped channels. Return maps of the sides' means."""
        seen = mask[:, :, None, None].expand(maps.shape).flatten(1)
        state = self.settle(torch.where(seen, self.bipolar(maps.flatten(1)), 0.0), seen)
        empty = self.counts == 0
        means = self.sums / torch.where(empty, 1.0, self.counts)
        means = torch.where(empty, means.flip(0), means)  # a side without values takes the other's mean
        return torch.where(state > 0, means[1], means[0]).view_as(maps)

    def settle(self, state: torch.Tensor, clamped: torch.Tensor) -> torch.Tensor:
        """Update states (n, N) of -1, 0 and +1 at most `updates` times, until nothing changes.

        clamped: (n, N) bool, units that keep their state. Returns the states (n, N).
        """
        own = self.weights.diagonal()  # subtracted from the field, to avoid a second matrix without it
        order = torch.randperm(self.size, generator=generator(self.seed, "hopfield")).tolist()
        for _ in range(self.settings.updates):
            before = state
            self.flops.product(len(state), self.size, self.size)
            if self.settings.update == "synchronous":
                field = state @ self.weights - state * own
                state = torch.where(clamped, state, self._signs(field, state))
            else:
                state = state.clone()
                for unit in order:
                    now = state[:, unit]
                    new = self._signs(state @ self.weights[unit] - now * own[unit], now)
                    state[:, unit] = torch.where(clamped[:, unit], now, new)
            if torch.equal(before, state):
                break
        return state

    def _signs(self, field: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return torch.where(field == 0, state, field.sign())

    def fade(self, beta):
        """Fade W <- (1 - beta) W, so older patterns pull less, and the weight of old values in the means."""
        self.weights *= 1 - beta
        self.sums, self.counts = faded(self.sums, self.counts, beta)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Return the bytes of N^2 weights and 5 N statistics in float32. Raises UserError above max_bytes."""
        size = math.prod(shape)
        needed = 4 * size * size + 4 * 5 * size
        if needed > settings.max_bytes:
            raise UserError(
                f"associative memory hopfield cannot hold maps of {' x '.join(map(str, shape))} = {size:,} "
                f"entries: its weight matrix would take {needed:,} bytes (limit max_bytes: "
                f"{settings.max_bytes:,}); use smaller maps or another associative memory"
            )
        return needed


def middle(values: torch.Tensor) -> torch.Tensor:
    """Return the medians (N,) of values (n, N), half way between the two middle values if n is even.

    A median that no value exceeds would put all maps on one side. It is replaced by the middle between it and
    the next lower value.
    """
    ordered = values.sort(0).values
    last = len(values) - 1
    median = ordered[last // 2] / 2 + ordered[(last + 1) // 2] / 2
    highest = ordered[-1]
    lower = torch.where(ordered < highest, ordered, -math.inf).amax(0)
    return torch.where((median >= highest) & (lower > -math.inf), highest / 2 + lower / 2, median)
