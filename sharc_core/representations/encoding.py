"""Sparse encoding: keep a map's salient channels, and count what keeping them costs.

SHARC eq. 4: channel k stays when |alpha_k| exceeds the theta-quantile of its map. Read as a rank, not
as a comparison with a number, so that exactly the same share stays whatever the ties: K - floor(theta K)
channels (an interpolated quantile, such as NumPy's, can differ by one). The adaptive rule keeps the
fewest channels that hold a given share of the absolute saliency instead.

The published code chooses by another importance, the positive part of alpha, and keeps what is not below
the percentile: as about half the channels then have importance 0, all stay until theta is about a half.
"""

import math
from dataclasses import dataclass

import torch

from sharc_core.common.errors import UserError
from sharc_core.common.pooling import widened

CHANNEL_BYTES = 2  # int16 channel numbers
LABEL_BYTES = 2  # int16 label
LOGIT_BYTES = 4  # float32, for methods that replay logits
COUNT_BYTES = 2  # int16, how many channels a sample keeps, where that differs between samples
SCALE_BYTES = 2  # float16 scale of an int8 channel
# float64 is for comparisons with the authors' numbers; a grid file cannot ask for it.
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "int8": torch.int8,
}
INT8_MAX = 127


def kept_channels(channels: int, theta: float) -> int:
    """Number of channels that stay: K - floor(theta K), at least one. theta = 0 keeps all K."""
    return max(1, channels - int(theta * channels + 1e-9))


def top_mask(saliency: torch.Tensor, theta: float) -> torch.Tensor:
    """(n, K) saliency -> (n, K) bool, true for the K' largest |saliency| of each row.

    Ties go to the lower channel number, so the count is always exact.
    """
    return _first(_ranked(saliency), kept_channels(saliency.shape[-1], theta))


def percentile_mask(saliency: torch.Tensor, theta: float) -> torch.Tensor:
    """(n, K) saliency -> (n, K) bool, true where its positive part is not below the row's theta-quantile.

    The quantile is NumPy's, between the ranks next to theta (K - 1). A channel at or above it is one at or
    above the value of the upper rank, so nothing is interpolated and rounding drops no tie.
    """
    positive, fewest = saliency.clamp_min(0), fewest_channels(saliency.shape[-1], theta)
    return positive >= positive.sort(dim=-1).values[..., [-fewest]]


def fewest_channels(channels: int, theta: float) -> int:
    """Number of channels that stay by percentile_mask where none of them are equal."""
    return channels - math.ceil(theta * (channels - 1) - 1e-9)


def kept_mask(
    saliency: torch.Tensor, theta: float | None, mass: float | None, importance: str = "absolute"
) -> torch.Tensor:
    """(n, K) saliency -> (n, K) bool, the channels to keep by theta, or by mass where theta is None.

    importance: "absolute", or "positive": negative saliency counts as none, and ties with the quantile stay.
    """
    if theta is None:
        return mass_mask(saliency.clamp_min(0) if importance == "positive" else saliency, mass)
    return percentile_mask(saliency, theta) if importance == "positive" else top_mask(saliency, theta)


def mass_mask(saliency: torch.Tensor, mass: float) -> torch.Tensor:
    """(n, K) saliency -> (n, K) bool: the fewest channels that hold `mass` of the row's sum of |saliency|.

    The largest first, ties to the lower channel number; at least one channel stays.
    """
    order = _ranked(saliency)
    held = saliency.abs().double().gather(-1, order).cumsum(-1)
    # a hair of slack: a share that is reached exactly must not cost a channel more by rounding
    short = held < mass * held[..., -1:] * (1 - 1e-12)
    return _first(order, (short.sum(-1, keepdim=True) + 1).clamp_max(saliency.shape[-1]))


def _ranked(saliency: torch.Tensor) -> torch.Tensor:
    return saliency.abs().sort(dim=-1, descending=True, stable=True).indices


def _first(order: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
    ranks = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, ranks < count)


@dataclass(frozen=True)
class SparseMaps:
    """n stored maps, M kept channels in all, sample after sample.

    values (M, h, w) in the storage's type; scales (M,) float16 for int8, else None; channels (M,) int16,
    or None when all K are kept; counts (n,) int16, kept channels of each, or None when all keep as many.
    """

    values: torch.Tensor
    scales: torch.Tensor | None
    channels: torch.Tensor | None
    counts: torch.Tensor | None
    samples: int
    total_channels: int

    @classmethod
    def encode(
        cls, maps: torch.Tensor, mask: torch.Tensor | None = None, storage: str = "float16"
    ) -> "SparseMaps":
        """Maps (n, K, h, w); mask (n, K) of the channels to keep, None for all; storage: see DTYPES.

        Raises UserError for kept values that the storage does not hold.
        """
        channels = counts = None
        if mask is None or bool(mask.all()):
            values = maps.flatten(0, 1)
        else:
            kept = mask.sum(1)
            values, channels = maps[mask], mask.nonzero()[:, 1].to(torch.int16)
            counts = kept.to(torch.int16) if bool((kept != kept[0]).any()) else None
        scales = None
        if storage == "int8":
            scales = (values.float().abs().amax((1, 2)) / INT8_MAX).half()
            divisor = torch.where(scales > 0, scales.float(), 1.0)[:, None, None]
            values = (values.float() / divisor).round().clamp(-INT8_MAX, INT8_MAX)
        values = values.to(DTYPES[storage])
        if not bool(torch.isfinite(values if scales is None else scales).all()):
            limit = torch.finfo(torch.float16).max * (INT8_MAX if storage == "int8" else 1)
            beyond = (
                "" if storage in ("float32", "float64") else f" or beyond {limit:,.0f}: use storage float32"
            )
            raise UserError(f"storage {storage} cannot hold these maps: a value is not finite{beyond}")
        return cls(values, scales, channels, counts, len(maps), maps.shape[1])

    def decode(self) -> torch.Tensor:
        """(n, K, h, w) float32 (float64 where that was stored) with zeros where nothing was kept."""
        values = widened(self.values)
        if self.scales is not None:
            values = values * self.scales.float()[:, None, None]
        shape = (self.samples, self.total_channels, *values.shape[1:])
        if self.channels is None:
            return values.view(shape)
        return values.new_zeros(shape).index_put_(self._places(), values)

    @property
    def mask(self) -> torch.Tensor:
        """(n, K) bool, true where a channel was kept."""
        mask = torch.zeros(self.samples, self.total_channels, dtype=torch.bool, device=self.values.device)
        if self.channels is None:
            return ~mask
        return mask.index_put_(self._places(), torch.tensor(True, device=mask.device))

    def _places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample and channel of every value."""
        rows = torch.arange(self.samples, device=self.values.device)
        each = len(self.values) // self.samples if self.counts is None else self.counts.long()
        return rows.repeat_interleave(each), self.channels.long()

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored: values, scales, channel numbers and counts."""
        parts = (self.values, self.scales, self.channels, self.counts)
        return sum(part.nbytes for part in parts if part is not None)


def sample_bytes(
    shape: tuple[int, int, int], keep: int, logits: int = 0, storage: str = "float16", counted: bool = False
) -> int:
    """Bytes of one stored sample: kept values, channel numbers (if any dropped), label, logits.

    counted: the number of kept channels is stored too, as it must be where samples differ in it.
    """
    channels, *positions = shape
    each = DTYPES[storage].itemsize * math.prod(positions) + (SCALE_BYTES if storage == "int8" else 0)
    index = CHANNEL_BYTES if keep < channels or counted else 0
    return keep * (each + index) + (COUNT_BYTES if counted else 0) + LABEL_BYTES + LOGIT_BYTES * logits
