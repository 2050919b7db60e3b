"""Global average pooling, in one place, because equal maps must pool to equal bits everywhere."""

import torch


def pool(maps: torch.Tensor) -> torch.Tensor:
    """Mean over the spatial positions: (..., K, h, w) of any float type -> (..., K) float32.

    The feature cache stores the pooled vector of the *float16* map, so pooling a map that was
    stored in a memory and read back unchanged gives exactly the cached vector.
    """
    return maps.float().flatten(-2).mean(-1)
