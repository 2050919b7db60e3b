"""No associative memory: dropped channels stay zero."""

import torch

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory


@ASSOCIATIVE_MEMORIES.register("none")
class NoMemory(AssociativeMemory):
    """Replays the masked maps as they are."""

    needs_writing = False

    def learn(self, maps, labels):
        """Nothing is learnt."""

    def complete(self, maps, mask, labels):
        """Zeros."""
        return torch.zeros_like(maps)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Nothing is kept."""
        return 0
