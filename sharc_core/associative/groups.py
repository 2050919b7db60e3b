"""Cues that can be read together: those that share a mask, in batches of one size."""

from collections.abc import Iterator

import torch


def by_mask(mask: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each distinct row (K,) of a mask (n, K), with the indices of the cues that have it, in order."""
    masks, member = mask.unique(dim=0, return_inverse=True)
    for number, row in enumerate(masks):
        yield row, (member == number).nonzero().flatten()


def chunked(count: int, size: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """`count` rows in batches of at most `size`: index (G, n) int64 and rows (G, n, 1) float64.

    The last batch is filled up with row 0; `rows` is 0 there and 1 elsewhere.
    """
    size = min(size, count)
    batches = -(-count // size)
    index = torch.arange(batches * size, device=device)
    rows = (index < count).double().view(batches, size, 1)
    return torch.where(index < count, index, 0).view(batches, size), rows
