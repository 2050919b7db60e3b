"""The mean map of each class: the simplest memory that can complete anything."""

import math

import torch

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory


@ASSOCIATIVE_MEMORIES.register("mean")
class ClassMean(AssociativeMemory):
    """Fills dropped channels with the running mean of the maps written for the sample's class."""

    def __init__(self, settings, shape, classes):
        super().__init__(settings, shape, classes)
        self.sums: dict[int, torch.Tensor] = {}
        self.counts: dict[int, int] = {}

    def write(self, maps: torch.Tensor, labels: torch.Tensor) -> None:
        """Add maps to their classes' means."""
        for label in labels.unique().tolist():
            chosen = maps[labels == label].float()
            self.sums[label] = self.sums.get(label, 0) + chosen.sum(0)
            self.counts[label] = self.counts.get(label, 0) + len(chosen)

    def complete(self, maps: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The class mean. KeyError for a class that was never written."""
        present = labels.unique().tolist()
        means = torch.stack([self.sums[label] / self.counts[label] for label in present])
        return means[torch.searchsorted(torch.tensor(present), labels)]

    @property
    def state_bytes(self) -> int:
        """A float32 map and a count for every class seen."""
        return sum(total.nbytes + 4 for total in self.sums.values())

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples) -> int:
        """A float32 map and a count for every class."""
        return classes * (4 * math.prod(shape) + 4)
