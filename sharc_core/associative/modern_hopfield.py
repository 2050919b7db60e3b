"""Modern Hopfield network (Ramsauer et al. 2020, arXiv 2008.02217): attention over the stored maps."""

import math
from typing import Literal

from pydantic import Field

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory, finite
from sharc_core.associative.found import Found
from sharc_core.associative.nearest import search
from sharc_core.associative.rows import Observed, StoredMaps
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.phases import WRITING, phase
from sharc_core.common.settings import Settings as BaseSettings

STATE_BYTES = 2  # stored maps are float16, as in the feature cache


@ASSOCIATIVE_MEMORIES.register("modern_hopfield")
class ModernHopfield(AssociativeMemory):
    """Updates q <- softmax(beta sim(q, X)) X over stored maps X, with similarity on the observed entries.

    Euclidean similarity is -|q - x|^2 / 2 (for rows of equal norm, the dot product up to a constant), so beta
    multiplies half a squared distance. The observed entries stay clamped in every iteration. If they alone
    are the cue, the first update is already the fixed point. With `full_state`, the completed entries join
    the cue from the second update on, as in the full network. Every written map is stored as float16. This
    memory does not forget. Top-1 retrieval by distance in one update, the default, is an exact search for the
    nearest stored map (nearest.py).
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
        self.kept = StoredMaps(self.shape, self.device)

    @property
    def stored(self) -> torch.Tensor:
        """All stored maps (N, K, h, w) float16, in one tensor that is made when it is asked for."""
        return self.kept.every()

    @stored.setter
    def stored(self, maps: torch.Tensor) -> None:
        self.kept = StoredMaps(self.shape, self.device)
        self.kept.append(maps)

    @property
    def picks(self):
        """Top-1 retrieval by distance completes a cue with one stored map."""
        s = self.settings
        return s.beta is None and s.similarity == "euclidean" and s.iterations == 1

    def learn(self, maps, labels):
        """Append maps (n, K, h, w). Raises UserError for values that float16 cannot hold."""
        self.kept.append(self._halves(maps))

    @phase(WRITING)
    def write_rows(self, rows, labels):
        """Append maps that stay where they are, if that is no other device, and are read when they are used.

        They must have the same values whenever they are read. Raises UserError as `write` does.
        """
        if self.device.type != "cpu" or not len(rows):
            super().write_rows(rows, labels)
            self.kept.last_are(rows.index)
            return

        def checked(maps: torch.Tensor, block: slice) -> torch.Tensor:
            self._check(maps, labels[block], "written")
            self._check_finite(maps, "written")
            return self._halves(maps)

        self.kept.append_rows(rows, checked)
        self.written += len(rows)

    def _halves(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps as float16. Raises UserError for values that float16 cannot hold."""
        halves = maps.half()
        if not finite(halves):
            limit = torch.finfo(torch.float16).max
            raise UserError(
                f"associative memory modern_hopfield keeps maps as float16: a value is beyond {limit:,.0f}"
            )
        return halves

    def learnt_finite(self):
        """Maps are checked before they are stored."""
        return True

    @property
    def state_bytes(self):
        """Return the bytes of the stored maps, in memory or not."""
        return STATE_BYTES * self.size * len(self.kept)

    def search(self, cues, known=None):
        """Find the nearest stored map of each cue, see nearest.py. Only with `picks`."""
        known = Found.nothing(len(cues), self.device) if known is None else known
        return search(cues, self.kept, known, self._similarity, self.flops)

    def picked_vectors(self, number):
        """Return the pooled vectors (n, K) of the stored maps numbered (n,)."""
        return self.kept.means[number]

    def picked_maps(self, number):
        """Return the stored maps with these numbers (n,), as float32."""
        return self.kept.rows(number).float()

    def sources(self, number):
        """Return which rows the stored maps numbered (n,) are; -1 for maps that were written as copies."""
        return self.kept.sources(number)

    def numbers_of(self, source):
        """Return the first stored maps (n,) that were written from the rows source (n,); -1 for none."""
        return self.kept.numbers(source)

    def complete(self, maps, mask, labels):
        """Return maps (n, K, h, w) after `iterations` updates. Observed entries stay clamped in between."""
        if self.picks:
            return self.picked_maps(self.search(Observed.of(maps, mask)).number)
        return self._updated(maps, mask)

    def _updated(self, maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the result of the updates as they are defined, by products over complete maps."""
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
