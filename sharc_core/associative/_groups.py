"""Cues that share a mask are completed together: what depends on the mask alone is computed once."""

from collections.abc import Iterator

import torch


def by_mask(mask: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(n, K) bool -> pairs of a distinct mask (K,) and the indices of the cues that have it."""
    distinct, member = mask.unique(dim=0, return_inverse=True)
    for group, row in enumerate(distinct):
        yield row, (member == group).nonzero().flatten()
