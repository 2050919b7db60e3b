"""No associative memory. Dropped channels stay zero."""

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory
from sharc_core.common.deferred import torch


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
