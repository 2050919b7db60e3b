"""Sparse encoding: keep a map's salient channels, and count what keeping them costs.

SHARC eq. 4: channel k stays when |alpha_k| exceeds the theta-quantile of its map. Read as a rank, not
as a comparison with a number, so that exactly the same share stays whatever the ties.
"""

from dataclasses import dataclass

import torch

VALUE_BYTES = 2  # kept values are float16, as in the feature cache
CHANNEL_BYTES = 2  # int16 channel numbers
LABEL_BYTES = 2  # int16 label
LOGIT_BYTES = 4  # float32, for methods that replay logits


def kept_channels(channels: int, theta: float) -> int:
    """Number of channels that stay: K - floor(theta K), at least one. theta = 0 keeps all K."""
    return max(1, channels - int(theta * channels + 1e-9))


def top_channels(saliency: torch.Tensor, theta: float) -> torch.Tensor:
    """(n, K) saliency -> (n, K') channel numbers in rising order, int16.

    The K' largest |saliency|; ties go to the lower channel number, so the count is always exact.
    """
    keep = kept_channels(saliency.shape[-1], theta)
    ranked = saliency.abs().sort(dim=-1, descending=True, stable=True).indices
    return ranked[..., :keep].sort(dim=-1).values.to(torch.int16)


@dataclass(frozen=True)
class SparseMaps:
    """n stored maps. values (n, K', h, w) float16; channels (n, K') int16, or None when all are kept."""

    values: torch.Tensor
    channels: torch.Tensor | None
    total_channels: int

    @classmethod
    def encode(cls, maps: torch.Tensor, channels: torch.Tensor | None) -> "SparseMaps":
        """Maps (n, K, h, w); channels (n, K') as from top_channels, or None to keep everything."""
        if channels is None or channels.shape[-1] == maps.shape[1]:
            return cls(maps.half(), None, maps.shape[1])
        rows = torch.arange(len(maps))[:, None]
        return cls(maps[rows, channels.long()].half(), channels, maps.shape[1])

    def decode(self) -> torch.Tensor:
        """(n, K, h, w) float32 with zeros where nothing was kept."""
        if self.channels is None:
            return self.values.float()
        count, _, *position = self.values.shape
        maps = torch.zeros(count, self.total_channels, *position)
        maps[torch.arange(count)[:, None], self.channels.long()] = self.values.float()
        return maps

    @property
    def mask(self) -> torch.Tensor:
        """(n, K) bool, true where a channel was kept."""
        mask = torch.zeros(len(self.values), self.total_channels, dtype=torch.bool)
        if self.channels is None:
            return ~mask
        return mask.scatter_(1, self.channels.long(), True)

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored: values and channel numbers."""
        return self.values.nbytes + (0 if self.channels is None else self.channels.nbytes)


def sample_bytes(shape: tuple[int, int, int], keep: int, logits: int = 0) -> int:
    """Bytes of one stored sample: kept values, channel numbers (if any dropped), label, logits."""
    channels, height, width = shape
    index = CHANNEL_BYTES * keep if keep < channels else 0
    return VALUE_BYTES * keep * height * width + index + LABEL_BYTES + LOGIT_BYTES * logits
