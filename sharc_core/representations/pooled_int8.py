"""Pooled vectors in eight bits, with one scale per vector."""

from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.representations.base import REPRESENTATIONS
from sharc_core.representations.int8 import LARGEST_INTEGER, SCALE_BYTES
from sharc_core.representations.pooled import PooledRepresentation, Vectors


@dataclass(frozen=True)
class IntegerVectors(Vectors):
    """n vectors. values (n, K) int8; scales (n,) float16 that they are multiplied by."""

    values: torch.Tensor
    scales: torch.Tensor

    def decode(self) -> torch.Tensor:
        """Return the vectors (n, K) float32."""
        return self.values.float() * self.scales.float()[:, None]

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes


@REPRESENTATIONS.register("pooled_int8")
class PooledInt8(PooledRepresentation):
    """Values as integers from -127 to 127, times the vector's float16 scale."""

    value_bytes = 1
    largest = torch.finfo(torch.float16).max * LARGEST_INTEGER

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> IntegerVectors:
        """Store vectors maps (n, K). The largest magnitude of each becomes 127, before the scale is rounded.

        Raises UserError for values that are not finite as stored.
        """
        values = maps.float()
        scales = (values.abs().amax(1) / LARGEST_INTEGER).half()
        self.check_finite(scales, self.largest, "pooled_float32")
        divisor = torch.where(scales > 0, scales.float(), 1.0)[:, None]
        integers = (values / divisor).round().clamp(-LARGEST_INTEGER, LARGEST_INTEGER)
        return IntegerVectors(integers.to(torch.int8), scales)

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of the values of all channels and of the scale."""
        return self.shape[0] + SCALE_BYTES
