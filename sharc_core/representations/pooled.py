"""Pooled vectors as floats: the mean of each channel of a map, which is all that a head on top sees."""

from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.common.pooling import widened
from sharc_core.representations.base import REPRESENTATIONS, Representation, Stored


class Vectors(Stored):
    """n stored vectors, whose values `decode` returns as (n, K)."""

    @property
    def mask(self) -> torch.Tensor:
        """(n, K) bool: all channels are kept."""
        return torch.ones(self.decode().shape, dtype=torch.bool)


class PooledRepresentation(Representation):
    """Stores the pooled vector of a sample and all its channels. `encode` takes vectors (n, K)."""

    stores_maps = takes_masks = False
    contents = "pooled vectors"


@dataclass(frozen=True)
class FloatVectors(Vectors):
    """n vectors. values (n, K) in the type they are stored as."""

    values: torch.Tensor

    def decode(self) -> torch.Tensor:
        """Return the vectors (n, K) float32."""
        return widened(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes


class FloatPooled(PooledRepresentation):
    """Stores the values as `dtype`. largest: magnitude that it holds, None for any that a float32 holds."""

    dtype: torch.dtype
    largest: float | None = None

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> FloatVectors:
        """Store vectors maps (n, K). Raises UserError for values that are not finite as stored."""
        values = maps.to(self.dtype)
        self.check_finite(values, self.largest, "pooled_float32")
        return FloatVectors(values)

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of the values of all channels."""
        return self.dtype.itemsize * self.shape[0]


@REPRESENTATIONS.register("pooled_float32")
class PooledFloat32(FloatPooled):
    """Pooled vectors as the feature cache has them, so a replayed vector is the one that was visited."""

    dtype, value_bytes = torch.float32, 4


@REPRESENTATIONS.register("pooled_float16")
class PooledFloat16(FloatPooled):
    """Pooled vectors in half precision."""

    dtype, value_bytes = torch.float16, 2
    largest = torch.finfo(torch.float16).max
