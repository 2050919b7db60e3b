"""No associative memory. Dropped channels stay zero."""

import torch

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory


@ASSOCIATIVE_MEMORIES.register("none")
class NoMemory(AssociativeMemory):
    """Replays masked maps unchanged."""

    needs_writing = False

    def learn(self, maps, labels):
        """Learn nothing."""

    def complete(self, maps, mask, labels):
        """Return zeros (n, K, h, w)."""
        return torch.zeros_like(maps)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Return 0, because nothing is stored."""
        return 0
