"""The mean map of each class, the simplest memory that completes maps."""

import math

from sharc_core.associative.base import ASSOCIATIVE_MEMORIES, AssociativeMemory, faded
from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError


@ASSOCIATIVE_MEMORIES.register("mean")
class ClassMean(AssociativeMemory):
    """Fills dropped channels with the running mean of the maps written for the sample's class."""

    parts = ("labels", "sums", "weights")
    grows = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.labels = torch.empty(0, dtype=torch.int16, device=self.device)
        self.sums = torch.empty(0, *self.shape, device=self.device)
        self.weights = torch.empty(0, device=self.device)

    def learn(self, maps, labels):
        """Add maps (n, K, h, w) to the sums of their classes."""
        new = labels.unique()
        new = new[~torch.isin(new, self.labels)]
        self.labels = torch.cat([self.labels, new.to(torch.int16)])
        self.sums = torch.cat([self.sums, self.sums.new_zeros(len(new), *self.shape)])
        self.weights = torch.cat([self.weights, self.weights.new_zeros(len(new))])
        rows = self._rows(labels)
        self.sums.index_add_(0, rows, maps.float())
        self.weights.index_add_(0, rows, torch.ones(len(maps), device=self.device))

    def complete(self, maps, mask, labels):
        """Return the class means (n, K, h, w). Raises UserError for a class that was never written."""
        rows = self._rows(labels)
        return (self.sums / self.weights[:, None, None, None])[rows]

    def fade(self, beta):
        """Reduce the weight of past maps. The means stay; after beta = 1, the next map replaces them."""
        self.sums, self.weights = faded(self.sums, self.weights, beta)

    def _rows(self, labels: torch.Tensor) -> torch.Tensor:
        same = labels[:, None] == self.labels
        if not bool(same.any(1).all()):
            missing = int(labels[~same.any(1)][0])
            raise UserError(f"associative memory mean: class {missing} was never written to it")
        return same.int().argmax(1)

    @classmethod
    def planned_bytes(cls, settings, shape, classes, samples):
        """Return the bytes of a float32 map, a float32 count and an int16 label per class."""
        return classes * (4 * math.prod(shape) + 4 + 2)
