"""Pooled vectors in one bit per channel: whether the channel is above the vector's own mean."""

from dataclasses import dataclass

import numpy as np

from sharc_core.common.deferred import torch
from sharc_core.representations.base import REPRESENTATIONS
from sharc_core.representations.pooled import PooledRepresentation, Vectors

BITS = 8  # channels packed into a byte
LEVEL_BYTES = 2  # float16


@dataclass(frozen=True)
class BinaryVectors(Vectors):
    """n vectors of K channels. bits (n, ceil(K / 8)) uint8, the first channel in the highest bit of a byte.

    levels (n, 2) float16: the value of a channel whose bit is 0, and of one whose bit is 1.
    """

    bits: torch.Tensor
    levels: torch.Tensor
    channels: int

    def decode(self) -> torch.Tensor:
        """Return the vectors (n, K) float32, which have two values each."""
        is_above = torch.from_numpy(np.unpackbits(self.bits.numpy(), axis=1, count=self.channels)).bool()
        low, high = self.levels.float().unbind(1)
        return torch.where(is_above, high[:, None], low[:, None])

    @property
    def nbytes(self) -> int:
        """Bytes of bits and levels."""
        return self.bits.nbytes + self.levels.nbytes


@REPRESENTATIONS.register("pooled_binary")
class PooledBinary(PooledRepresentation):
    """One bit per channel, and two levels per vector.

    A channel's bit is set if its value exceeds the mean of the vector, and the levels are the means of both
    groups. Given the groups, no other levels have a smaller squared error, and the decoded vector keeps the
    mean. The threshold needs no statistics of other samples, which would have to be stored or would change as
    the stream goes on. It is not zero, because vectors pooled after a ReLU have no negative values.
    """

    value_bytes = 1 / BITS
    largest = torch.finfo(torch.float16).max

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> BinaryVectors:
        """Store vectors maps (n, K). Raises UserError for levels that are not finite as stored."""
        values = maps.float()
        is_above = values > values.mean(1, keepdim=True)
        low, high = (_mean_where(values, group) for group in (~is_above, is_above))
        # a vector of equal values has one group only, which gives both levels
        low, high = (torch.where(own.isnan(), other, own) for own, other in ((low, high), (high, low)))
        levels = torch.stack([low, high], 1).half()
        self.check_finite(levels, self.largest, "pooled_float32")
        bits = torch.from_numpy(np.packbits(is_above.numpy(), axis=1))
        return BinaryVectors(bits, levels, values.shape[1])

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of the bits of all channels and of both levels."""
        return -(-self.shape[0] // BITS) + 2 * LEVEL_BYTES


def _mean_where(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Return the mean (n,) of those values (n, K) that are in a group (n, K); NaN for an empty group."""
    return torch.where(group, values, 0.0).sum(1) / group.sum(1)
