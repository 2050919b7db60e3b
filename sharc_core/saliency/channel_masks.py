"""Equation 4 of the paper: which channels of a map stay, given their saliency.

The paper keeps channel k when |alpha_k| exceeds the theta-quantile of its map. This is implemented by rank,
not by comparison with a number, so ties do not change how many channels stay: always K - floor(theta K). (An
interpolated quantile, such as NumPy's, can differ by one channel.) The adaptive rule keeps the fewest
channels that hold a given share of the absolute saliency.

The published code uses another importance, the positive part of alpha, and keeps every channel that is not
below the percentile. About half of the importances are then 0, so all channels stay until theta is about 0.5.
"""

import math

from sharc_core.common.deferred import torch


def kept_mask(
    saliency: torch.Tensor, theta: float | None, mass: float | None, importance: str = "absolute"
) -> torch.Tensor:
    """Return the channels to keep, (n, K) bool, of saliency (n, K).

    theta: share of the channels to drop; where it is None, mass: share of the saliency to keep. importance:
    "absolute", or "positive", which counts negative saliency as 0 and keeps ties with the quantile.
    """
    if theta is None:
        assert mass is not None, "give theta or mass"
        return mass_mask(saliency.clamp_min(0) if importance == "positive" else saliency, mass)
    return percentile_mask(saliency, theta) if importance == "positive" else top_mask(saliency, theta)


def top_mask(saliency: torch.Tensor, theta: float) -> torch.Tensor:
    """Return (n, K) bool, true for the K' = `kept_channels` largest |saliency| of each row of (n, K).

    Of equal channels the one with the lower number stays, so the count is exact.
    """
    size, kept = saliency.abs(), kept_channels(saliency.shape[-1], theta)
    lowest = size.topk(kept, dim=-1).values[..., -1:]  # several times faster than sorting all channels
    mask = size >= lowest
    tied = (mask.sum(-1, keepdim=True) > kept).any(-1)
    if bool(tied.any()):  # more channels reach the lowest value than stay
        above, equal = size[tied] > lowest[tied], size[tied] == lowest[tied]
        mask[tied] = above | (equal & (equal.cumsum(-1) <= kept - above.sum(-1, keepdim=True)))
    return mask


def kept_channels(channels: int, theta: float) -> int:
    """Return how many channels `top_mask` keeps: K - floor(theta K), at least one. theta = 0 keeps all K."""
    return max(1, channels - int(theta * channels + 1e-9))


def percentile_mask(saliency: torch.Tensor, theta: float) -> torch.Tensor:
    """Return (n, K) bool, true where the positive part of saliency (n, K) reaches its row's theta-quantile.

    The quantile is NumPy's, which lies between the two ranks next to theta (K - 1). A channel reaches it when
    it reaches the value of the upper rank, so nothing is interpolated and rounding drops no tie.
    """
    positive, fewest = saliency.clamp_min(0), fewest_channels(saliency.shape[-1], theta)
    return positive >= positive.sort(dim=-1).values[..., [-fewest]]


def fewest_channels(channels: int, theta: float) -> int:
    """Return how many channels `percentile_mask` keeps when no two are equal; ties only add to them."""
    return channels - math.ceil(theta * (channels - 1) - 1e-9)


def mass_mask(saliency: torch.Tensor, mass: float) -> torch.Tensor:
    """Return (n, K) bool: the fewest channels of each row that hold `mass` of its sum of |saliency|.

    The largest come first, and of equal ones the lower channel number. At least one channel stays.
    """
    order = _ranked(saliency)
    held = saliency.abs().double().gather(-1, order).cumsum(-1)
    # the factor keeps rounding from adding a channel where the share is reached exactly
    short = held < mass * held[..., -1:] * (1 - 1e-12)
    return _first(order, (short.sum(-1, keepdim=True) + 1).clamp_max(saliency.shape[-1]))


def _ranked(saliency: torch.Tensor) -> torch.Tensor:
    """Channel numbers (n, K) by falling |saliency|."""
    return saliency.abs().sort(dim=-1, descending=True, stable=True).indices


def _first(order: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    """True for the first `count` channels of order (n, K)."""
    ranks = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, ranks < count)
