"""Sparse maps: the kept channels of each map as floats, with their channel numbers."""

import math
from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.common.pooling import widened
from sharc_core.representations.base import REPRESENTATIONS, Representation, Stored

CHANNEL_BYTES = 2  # int16 number of each kept channel, stored when any channel was dropped
COUNT_BYTES = 2  # int16 number of kept channels of a sample, stored when samples differ in it


@dataclass(frozen=True)
class SparseMaps(Stored):
    """n stored maps with M kept channels in all, sample after sample.

    values (M, h, w) in the type they are stored as; scales (M,) float16 that integers are multiplied by, else
    None; channels (M,) int16, or None when all K are kept; counts (n,) int16, kept channels of each sample,
    or None when all samples keep as many.
    """

    values: torch.Tensor
    scales: torch.Tensor | None
    channels: torch.Tensor | None
    counts: torch.Tensor | None
    samples: int
    total_channels: int

    def decode(self) -> torch.Tensor:
        """Return (n, K, h, w) float32 (float64 where that was stored) with zeros where nothing was kept."""
        values = self.kept_channels()
        shape = (self.samples, self.total_channels, *values.shape[1:])
        if self.channels is None:
            return values.view(shape)
        return values.new_zeros(shape).index_put_(self._places(), values)

    def kept_channels(self) -> torch.Tensor:
        """Return the kept channels, (M, h, w)."""
        values = widened(self.values)
        return values if self.scales is None else values * self.scales.float()[:, None, None]

    @property
    def mask(self) -> torch.Tensor:
        """(n, K) bool, true where a channel was kept."""
        mask = torch.zeros(self.samples, self.total_channels, dtype=torch.bool, device=self.values.device)
        if self.channels is None:
            return ~mask
        return mask.index_put_(self._places(), torch.tensor(True, device=mask.device))

    def _places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample and channel of every value, (M,) each."""
        assert self.channels is not None
        rows = torch.arange(self.samples, device=self.values.device)
        each = len(self.values) // self.samples if self.counts is None else self.counts.long()
        return rows.repeat_interleave(each), self.channels.long()

    @property
    def nbytes(self) -> int:
        """Bytes of values, scales, channel numbers and counts."""
        parts = (self.values, self.scales, self.channels, self.counts)
        return sum(part.nbytes for part in parts if part is not None)


class SparseMapRepresentation(Representation):
    """Stores kept channels densely as `dtype`, dropped ones not at all.

    largest: magnitude that the type holds, for the message when a value exceeds it; None for any.
    """

    dtype: torch.dtype
    scale_bytes = 0  # of each kept channel
    largest: float | None = None

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> SparseMaps:
        """Store maps (n, K, h, w) without the channels that mask (n, K) drops.

        Raises UserError for kept values that are not finite as stored.
        """
        channels = counts = None
        if mask is None or bool(mask.all()):
            values = maps.flatten(0, 1)
        else:
            kept = mask.sum(1)
            values, channels = maps[mask], mask.nonzero()[:, 1].to(torch.int16)
            counts = kept.to(torch.int16) if bool((kept != kept[0]).any()) else None
        values, scales = self.pack(values)
        self.check_finite(values if scales is None else scales, self.largest, "float32")
        return SparseMaps(values, scales, channels, counts, len(maps), maps.shape[1])

    def pack(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return values (M, h, w) as `dtype`, and their scales (M,) where there are any."""
        return values.to(self.dtype), None

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of a sample: values, scales, channel numbers if any is dropped, their count."""
        channels, *positions = self.shape
        each = self.dtype.itemsize * math.prod(positions) + self.scale_bytes
        numbers = CHANNEL_BYTES if keep < channels or counted else 0
        return keep * (each + numbers) + (COUNT_BYTES if counted else 0)


@REPRESENTATIONS.register("float16")
class Float16(SparseMapRepresentation):
    """Values as the feature cache has them. What a slot of a budget in bytes is worth."""

    dtype, value_bytes, is_cache_format, keeps_halves = torch.float16, 2, True, True
    largest = torch.finfo(torch.float16).max


@REPRESENTATIONS.register("float32")
class Float32(SparseMapRepresentation):
    """Values in single precision."""

    dtype, value_bytes, keeps_halves = torch.float32, 4, True


@REPRESENTATIONS.register("float64")
class Float64(SparseMapRepresentation):
    """Values in double precision, to compare runs with the authors' to the last digits."""

    dtype, value_bytes, keeps_halves, in_grids = torch.float64, 8, True, False
