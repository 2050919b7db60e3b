"""Sparse maps in eight bits: each kept channel has a scale of its own."""

from sharc_core.common.deferred import torch
from sharc_core.representations.base import REPRESENTATIONS
from sharc_core.representations.sparse_maps import SparseMapRepresentation

LARGEST_INTEGER = 127
SCALE_BYTES = 2  # float16


@REPRESENTATIONS.register("int8")
class Int8(SparseMapRepresentation):
    """Values as integers from -127 to 127, times the channel's float16 scale."""

    dtype, value_bytes, scale_bytes = torch.int8, 1, SCALE_BYTES
    largest = torch.finfo(torch.float16).max * LARGEST_INTEGER

    def pack(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values (M, h, w) as int8 and scales (M,) that map the largest magnitude of each to 127."""
        scales = (values.float().abs().amax((1, 2)) / LARGEST_INTEGER).half()
        divisor = torch.where(scales > 0, scales.float(), 1.0)[:, None, None]
        integers = (values.float() / divisor).round().clamp(-LARGEST_INTEGER, LARGEST_INTEGER)
        return integers.to(self.dtype), scales
