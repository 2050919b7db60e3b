"""Global average pooling, in one place, because equal maps must pool to equal bits everywhere."""

import torch


def pool(maps: torch.Tensor) -> torch.Tensor:
    """Mean over the spatial positions: (..., K, h, w) of any float type -> (..., K) float32 (or float64).

    The feature cache stores the pooled vector of the *float16* map, so pooling a map that was
    stored in a memory and read back unchanged gives exactly the cached vector.
    """
    return widened(maps).flatten(-2).mean(-1)


def widened(values: torch.Tensor) -> torch.Tensor:
    """The values as float32; float64 stays, so that runs can be compared to its last digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
