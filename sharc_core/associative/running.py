"""Running means that fade: sums of values and the weight that they have gathered."""

import torch

LEAST = 1e-6  # of a map: what fading leaves of a weight, so that a mean never becomes 0 / 0


def faded(sums: torch.Tensor, weights: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (*w, ...) and weights (*w) that later values outweigh more; the means stay, however often.

    Both shrink by the same ratio, 1 - beta unless the weight would fall below LEAST; a weight of 0 stays.
    """
    left = torch.where(weights > 0, (weights * (1 - beta)).clamp_min(LEAST), 0.0)
    ratio = torch.where(weights > 0, left / weights, 1.0)
    return sums * ratio.view(*ratio.shape, *[1] * (sums.ndim - ratio.ndim)), left
