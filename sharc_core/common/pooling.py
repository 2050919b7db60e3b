"""Global average pooling. The only implementation, because equal maps must pool to equal bits everywhere."""

from sharc_core.common.deferred import torch


def pool(maps: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions of maps (..., K, h, w) of any float type: (..., K) float32 or float64.

    The feature cache stores the pooled vector of the *float16* map, so a map that was stored in a memory and
    decoded unchanged pools to exactly the cached vector.
    """
    return widened(maps).flatten(-2).mean(-1)


def widened(values: torch.Tensor) -> torch.Tensor:
    """Return the values as float32. float64 stays, so that runs can be compared to the last digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
