"""What a search for the nearest stored maps has found, so that later searches compare only new maps."""

import math
from dataclasses import dataclass

from sharc_core.common.deferred import torch


@dataclass
class Found:
    """The stored maps that are nearest to n cues, among the first `compared`.

    number (n,) int64: of the map, -1 for none. distance (n,) float64: squared, over the observed entries.
    """

    number: torch.Tensor
    distance: torch.Tensor
    compared: int = 0

    @classmethod
    def nothing(cls, cues: int, device: torch.device) -> "Found":
        """Return what is known of new cues."""
        number = torch.full((cues,), -1, device=device)
        return cls(number, torch.full((cues,), math.inf, dtype=torch.float64, device=device))

    def part(self, at: torch.Tensor) -> "Found":
        """Return a copy of the entries at (m,), numbers or a mask."""
        return Found(self.number[at], self.distance[at], self.compared)

    def offer(self, at: torch.Tensor, number: torch.Tensor, distance: torch.Tensor) -> None:
        """Take maps `number` (m,) at `distance` (m,) for the distinct cues at (m,) where they are nearer."""
        own = self.distance[at]
        nearer = (distance < own) | ((distance == own) & (number < self.number[at]))
        at = at[nearer]
        self.number[at], self.distance[at] = number[nearer], distance[nearer]
