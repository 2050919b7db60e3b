"""No associative memory: dropped channels stay zero."""

import torch

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory


@ASSOCIATIVE_MEMORIES.register("none")
class NoMemory(AssociativeMemory):
    """Replays the masked maps as they are."""

    def write(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Nothing is learnt."""

    def complete(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Zeros."""
        return torch.zeros_like(maps, dtype=torch.float32)

    @property
    def state_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples) -> int:
        """Nothing is kept."""
        return 0
