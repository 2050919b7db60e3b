"""Rows in batches, with padding where a batch is not full."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from sharc_core.associative.matrix_normal import Grams
from sharc_core.common.deferred import torch


def chunked(count: int, size: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Return `count` rows in batches of at most `size`: index (G, n) int64 and rows (G, n, 1) float64.

    The last batch is filled up with row 0; `rows` is 0 there and 1 elsewhere.
    """
    size = min(size, count)
    batches = -(-count // size)
    index = torch.arange(batches * size, device=device)
    rows = (index < count).double().view(batches, size, 1)
    return torch.where(index < count, index, 0).view(batches, size), rows


def sections(
    sizes: Sequence[int], size: int, stack: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield stacks of at most `stack` batches of at most `size` rows. No batch has rows of two sections.

    sizes: rows of each section; the rows of all sections are numbered through. Yields a stack's rows (r,),
    and index (G, n) and rows (G, n, 1) as `chunked` does, where index counts within the stack.
    """
    ends = list(accumulate(sizes, initial=0))
    batches = [
        (first, min(first + size, end)) for start, end in pairwise(ends) for first in range(start, end, size)
    ]
    for number in range(0, len(batches), stack):
        chosen = batches[number : number + stack]
        lengths = torch.tensor([stop - first for first, stop in chosen])
        place = torch.arange(int(lengths.max()))
        filled = place < lengths[:, None]
        index = torch.where(filled, place + (lengths.cumsum(0) - lengths)[:, None], 0)
        members = torch.arange(chosen[0][0], chosen[-1][1], device=device)
        yield members, index.to(device), filled.double().unsqueeze(2).to(device)


def side_by_side(
    parts: list[tuple[torch.Tensor, Grams]],
) -> tuple[torch.Tensor, Grams, torch.Tensor, torch.Tensor]:
    """Stack batches of different masks and sizes, with padding for the smaller ones.

    Returns the members, their Grams, and index and rows as `chunked` does.
    """
    sizes = [len(members) for members, _ in parts]
    most, first = max(sizes), 0
    like = parts[0][1].xr
    xx, xr = like.new_zeros(len(parts), most, most), like.new_zeros(len(parts), most, like.shape[2])
    rows = like.new_zeros(len(parts), most, 1)
    index = torch.zeros(len(parts), most, dtype=torch.int64, device=like.device)
    for g, (size, (_, grams)) in enumerate(zip(sizes, parts, strict=True)):
        xx[g, :size, :size], xr[g, :size], rows[g, :size] = grams.xx[0], grams.xr[0], 1
        index[g, :size] = torch.arange(first, first + size, device=like.device)
        first += size
    stack = Grams(xx, xr, torch.stack([grams.rr for _, grams in parts]), parts[0][1].columns)
    return torch.cat([members for members, _ in parts]), stack, index, rows
