"""Reservoir sampling over the stream, as mammoth fills its buffer."""

import torch

from sharc_core.selection.base import SELECTIONS, StreamSelection


@SELECTIONS.register("reservoir")
class Reservoir(StreamSelection):
    """Keeps every visit with the same probability (Vitter 1985, algorithm R)."""

    def slots(self, count):
        """Return the slot that each of the next `count` samples takes, or -1 for none."""
        # in float64 times int64, so that long streams do not round
        places = torch.rand(count, generator=self.source, dtype=torch.float64)
        taken = []
        for place in places.tolist():
            self.seen += 1
            slot = self.seen - 1 if self.seen <= self.capacity else int(place * self.seen)
            taken.append(slot if slot < self.capacity else -1)
        return taken
