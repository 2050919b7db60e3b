"""Samples that an associative memory (AM) completes by picking one stored map for each of them.

What was picked for a sample stays known. When the AM has learnt more maps, the sample is compared with the
new ones only, and not at all if its observed entries already equal those of a stored map, as those of its own
map do if they are stored without loss. Only observed channels are decoded, and only pooled vectors and recall
errors are kept.
"""

import math

from sharc_core.associative import AssociativeMemory
from sharc_core.associative.found import Found
from sharc_core.associative.rows import Observed
from sharc_core.common.deferred import torch
from sharc_core.common.phases import READING, phase
from sharc_core.common.pooling import pool
from sharc_core.memory.encoding import Encoder
from sharc_core.representations import Stored

BLOCK = 64  # maps compared at a time


class PickedSamples:
    """One replica's n stored samples of a task, whose completion is picked among the maps of its AM."""

    def __init__(
        self,
        memory: AssociativeMemory,
        encoder: Encoder,
        replica: int,
        stored: Stored,
        index: torch.Tensor,
        completes: torch.Tensor,
    ):
        """Take over training samples index (n,). completes (n,) bool: those that the AM completes."""
        self.memory, self.encoder, self.replica = memory, encoder, replica
        self.stored, self.index = stored, index
        self.rows = completes.nonzero().flatten()  # (m,)
        self.found = Found.nothing(len(self.rows), memory.device)
        self.errors: torch.Tensor | None = None  # (n,) float64, sums of squares over dropped entries
        self.dropped = 0  # entries

    @phase(READING)
    def update(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Search the maps that the AM has learnt since the last call.

        Returns the rows (k,) of the samples that are completed in another way than before, and the vectors
        (k, K) to replay; None if there are none. At the first call these are all samples.
        """
        is_first = self.errors is None
        open_ = (self.found.distance > 0).nonzero().flatten()  # a map at distance 0 stays the nearest
        if not is_first and not len(open_):
            return None
        cues = Observed(self.stored.kept_channels(), self.stored.mask)
        changed = open_[:0]
        if len(open_) and not bool(cues.mask.all()):
            changed = self._search(cues, open_)
        if self.errors is None:
            self.errors = torch.zeros(len(cues), dtype=torch.float64)
            height_width = cues.values.shape[1:]
            self.dropped = int((~cues.mask).sum()) * math.prod(height_width)
        elif not len(changed):
            return None
        rows = torch.arange(len(cues)) if is_first else self.rows[changed.cpu()]
        number = torch.full((len(cues),), -1, dtype=torch.int64)
        number[self.rows] = self.found.number.cpu()
        return rows, self._completed(cues.part(rows), rows, number[rows])

    def _search(self, cues: Observed, open_: torch.Tensor) -> torch.Tensor:
        """Update `found` at open_ (k,). Return which of them changed."""
        own, device = cues.part(self.rows[open_.cpu()]), self.memory.device
        if self.errors is None and self.encoder.is_exact(self.replica):
            number = self.memory.numbers_of(self.index[self.rows].to(device))
            there = (number >= 0).nonzero().flatten()
            self.found.offer(there, number[there], torch.zeros_like(self.found.distance[there]))
        known = self.found.part(open_)
        found = self.memory.search(Observed(own.values.to(device), own.mask.to(device)), known)
        self.found.number[open_], self.found.distance[open_] = found.number, found.distance
        self.found.compared = found.compared
        return open_[found.number != known.number]

    def _completed(self, cues: Observed, rows: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Return the vectors (k, K) to replay of the samples at rows (k,), and record their recall errors.

        number (k,): of the stored maps that complete them; -1: dropped channels stay zero.
        """
        assert self.errors is not None
        own, is_picked = pool(cues.values), number >= 0
        picked = number[is_picked].to(self.memory.device)
        vectors = own.new_zeros(cues.mask.shape)
        vectors[is_picked] = self.memory.picked_vectors(picked).cpu().to(own.dtype)
        vectors[cues.mask] = own
        exact = torch.zeros_like(is_picked)  # completed with the sample's own map
        if self.encoder.has_halves:
            exact[is_picked] = self.memory.sources(picked).cpu() == self.index[rows][is_picked]
        exact |= cues.mask.all(1)
        self.errors[rows] = 0.0
        for some in (~exact).nonzero().flatten().split(BLOCK):
            maps = torch.zeros(len(some), *self.memory.shape)
            chosen = is_picked[some]
            if bool(chosen.any()):
                maps[chosen] = self.memory.picked_maps(number[some][chosen].to(self.memory.device)).cpu()
            index, mask = self.index[rows[some]], cues.mask[some]
            self.errors[rows[some]] = self.encoder.squared_errors(self.replica, index, maps, mask)
        return vectors

    @property
    def recall_error(self) -> float:
        """Return the mean squared error over dropped entries; 0 where nothing was dropped."""
        assert self.errors is not None, "call `update` first"
        return float(self.errors.sum()) / self.dropped if self.dropped else 0.0
