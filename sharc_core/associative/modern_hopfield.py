"""Modern Hopfield network (Ramsauer et al. 2020, arXiv 2008.02217): attention over the stored maps."""

import math
from typing import Literal

import torch
from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory, finite
from sharc_core.common.errors import UserError
from sharc_core.common.settings import Settings as BaseSettings

STATE_BYTES = 2  # stored maps are float16, as in the feature cache


@ASSOCIATIVE_MEMORIES.register("modern_hopfield")
class ModernHopfield(AssociativeMemory):
    """Updates q <- softmax(beta sim(q, X)) X over stored maps X, with similarity on the observed entries.

    Euclidean similarity is -|q - x|^2 / 2 (for rows of equal norm, the dot product up to a constant), so beta
    multiplies half a squared distance. The observed entries stay clamped in every iteration. If they alone
    are the cue, the first update is already the fixed point. With `full_state`, the completed entries join
    the cue from the second update on, as in the full network. Every written map is stored as float16. This
    memory does not forget.
    """

    parts = ("stored",)
    grows = True

    class Settings(BaseSettings):
        """beta: inverse temperature, per unit of similarity; null is the limit of top-1 retrieval.

        iterations: number of updates. full_state: completed entries join the cue from the second update on.
        """

        beta: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
        similarity: Literal["euclidean", "dot"] = "euclidean"
        iterations: int = Field(default=1, ge=1)
        full_state: bool = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stored = torch.empty(0, *self.shape, dtype=torch.float16, device=self.device)

    def learn(self, maps, labels):
        """Append maps (n, K, h, w). Raises UserError for values that float16 cannot hold."""
        halves = maps.half()
        if not finite(halves):
            limit = torch.finfo(torch.float16).max
            raise UserError(
                f"associative memory modern_hopfield keeps maps as float16: a value is beyond {limit:,.0f}"
            )
        self.stored = torch.cat([self.stored, halves])

    def complete(self, maps, mask, labels):
        """Return maps (n, K, h, w) after `iterations` updates. Observed entries stay clamped in between."""
        stored = self.stored.float()
        observed = mask[:, :, None, None]
        state = maps.float()
        for step in range(self.settings.iterations):
            cue = mask if step == 0 or not self.settings.full_state else torch.ones_like(mask)
            similarity = self._similarity(state, cue, stored)
            if self.settings.beta is None:
                guess = stored[similarity.argmax(1)]
            else:
                best = similarity.amax(1, keepdim=True)  # subtracted to avoid overflow with a large beta
                self.flops.product(*similarity.shape, self.size)
                attention = (self.settings.beta * (similarity - best)).softmax(1)
                guess = (attention @ stored.flatten(1)).view_as(state)
            state = torch.where(observed, state, guess)
        return state

    def _similarity(self, cue: torch.Tensor, mask: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        """Return similarities (n, stored) over the observed channels, without the constant |q|^2 per row.

        Cues that share a mask (with a linear head, all of a class stored together) are compared on the
        observed channels only, so the cost falls with theta.
        """
        similarity = torch.empty(len(cue), len(stored), device=cue.device)
        masks, member = mask.unique(dim=0, return_inverse=True)
        if len(masks) > max(1, len(mask) // 8):  # few cues share masks, so one masked product is cheaper
            self.flops.product(*mask.shape, len(stored))
            seen = torch.where(mask[:, :, None, None], cue, 0.0)
            return self._scores(seen, mask.float() @ stored.square().sum((2, 3)).T, stored)
        for group, observed in enumerate(masks):
            rows = member == group
            part = stored[:, observed]
            similarity[rows] = self._scores(cue[rows][:, observed], part.square().sum((1, 2, 3)), part)
        return similarity

    def _scores(self, cue: torch.Tensor, norms: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        self.flops.product(len(cue), len(stored), stored[0].numel())
        dot = cue.flatten(1) @ stored.flatten(1).T
        return dot if self.settings.similarity == "dot" else dot - norms / 2

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Return the bytes of a complete float16 map per sample."""
        return STATE_BYTES * math.prod(shape) * samples
