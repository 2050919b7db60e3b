"""Modern Hopfield network (Ramsauer et al. 2020, arXiv 2008.02217): attention over the stored maps."""

import math
from typing import Literal

import torch
from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.encoding import VALUE_BYTES
from sharc_core.settings import Settings as BaseSettings


@ASSOCIATIVE_MEMORIES.register("modern_hopfield")
class ModernHopfield(AssociativeMemory):
    """q <- softmax(beta sim(q, X)) X over stored rows X, the similarity on the observed entries only.

    Euclidean similarity is -|q - x|^2 / 2 (equal to the dot product for rows of equal norm). Every
    written map is kept in full, as float16: state_bytes says what that costs.
    """

    class Settings(BaseSettings):
        """beta: inverse temperature, per unit of similarity; null is the limit, top-1 retrieval."""

        beta: float | None = Field(default=None, gt=0)
        similarity: Literal["euclidean", "dot"] = "euclidean"
        iterations: int = Field(default=1, ge=1)

    def __init__(self, settings, shape, classes):
        super().__init__(settings, shape, classes)
        self.stored = torch.empty(0, *shape, dtype=torch.float16)

    def write(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Append the maps."""
        self.stored = torch.cat([self.stored, maps.half()])

    def complete(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The associated map after `iterations` updates; observed entries stay clamped in between."""
        stored = self.stored.float()
        observed = mask[:, :, None, None]
        state = torch.where(observed, maps.float(), 0.0)
        for step in range(self.settings.iterations):
            # From the second update on the guess is part of the cue, as in the full network.
            cue = mask if step == 0 else torch.ones_like(mask)
            similarity = self._similarity(state, cue, stored)
            if self.settings.beta is None:
                guess = stored[similarity.argmax(1)]
            else:
                attention = (self.settings.beta * similarity).softmax(1)
                guess = (attention @ stored.flatten(1)).view_as(state)
            state = torch.where(observed, state, guess)
        return state

    def _similarity(self, cue: torch.Tensor, mask: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        """(n, stored) similarities over the masked-in channels; |q|^2 is a constant per row and dropped.

        Cues that share a mask (with a linear head: all of a class stored together) are compared on the
        observed channels alone, so the cost falls with theta.
        """
        similarity = torch.empty(len(cue), len(stored))
        masks, member = mask.unique(dim=0, return_inverse=True)
        if len(masks) > max(1, len(mask) // 8):  # hardly any sharing: one masked product is cheaper
            seen = torch.where(mask[:, :, None, None], cue, 0.0)
            return self._scores(seen, mask.float() @ stored.square().sum((2, 3)).T, stored)
        for group, observed in enumerate(masks):
            rows = member == group
            part = stored[:, observed]
            similarity[rows] = self._scores(cue[rows][:, observed], part.square().sum((1, 2, 3)), part)
        return similarity

    def _scores(self, cue: torch.Tensor, norms: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        dot = cue.flatten(1) @ stored.flatten(1).T
        return dot if self.settings.similarity == "dot" else dot - norms / 2

    @property
    def state_bytes(self) -> int:
        """All stored maps."""
        return self.stored.nbytes

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples) -> int:
        """A whole float16 map per sample."""
        return VALUE_BYTES * math.prod(shape) * samples
