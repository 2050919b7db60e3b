"""Exact search for the stored map that is nearest to a masked cue, with a lower bound from channel means.

The squared distance of two maps over observed channels is at least h w times that of the channels' means, by
the Cauchy-Schwarz inequality (piecewise aggregate approximation, Keogh et al. 2001, Knowledge and Information
Systems 3, has this bound for time series). The map with the smallest bound is compared first; then only maps
whose bound does not exceed its distance. For a cue that was stored, these are seldom more than one. Bounds
take h w times less work than distances, and read no maps.

A cue that is known to equal a stored map needs no bounds: only an earlier map that equals it, too, could take
that one's place, and few have the same mean even in one channel.

Of maps at the same distance, the first stored one is found. Distances are sums over entries, so they are
exactly 0 for equal maps and equal for equal pairs, however many maps are compared at a time.
"""

import math
from collections.abc import Callable

from sharc_core.associative.base import by_mask
from sharc_core.associative.found import Found
from sharc_core.associative.rows import BLOCK, Observed, StoredMaps, pooled
from sharc_core.common.deferred import torch
from sharc_core.common.flops import FlopCount

CUES = 256  # cues searched at a time
MANY = 16  # maps left by the bound from which a cue is compared with all maps by matrix products

Scores = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def search(cues: Observed, stored: StoredMaps, known: Found, scores: Scores, flops: FlopCount) -> Found:
    """Return `known` after comparing n cues with the maps stored after the first known.compared.

    scores: returns the similarity (n, N) of cues (n, K, h, w), masks (n, K) and maps (N, K, h, w) on the
    observed channels, the largest for the nearest; it is used where the bound leaves many maps. flops: counts
    the products of the bounds.
    """
    everyone = torch.arange(len(cues), device=cues.mask.device)
    found = known.part(everyone)
    for rows in everyone.split(CUES):
        own = found.part(rows)
        _search(cues.part(rows), stored, own, scores, flops)
        found.number[rows], found.distance[rows] = own.number, own.distance
    found.compared = len(stored)
    return found


def _search(cues: Observed, stored: StoredMaps, found: Found, scores: Scores, flops: FlopCount) -> None:
    """Update `found` as `search` does."""
    if found.compared == len(stored):
        return
    left = found.distance > 0
    equal = (~left).nonzero().flatten()
    left[equal[_compare_equals(cues, stored, found, equal)]] = True
    at = left.nonzero().flatten()
    if len(at):
        own = found.part(at)
        _search_by_bounds(cues.part(at), stored, own, scores, flops)
        found.number[at], found.distance[at] = own.number, own.distance


def _compare_equals(cues: Observed, stored: StoredMaps, found: Found, at: torch.Tensor) -> torch.Tensor:
    """Find the first equal maps of cues at (m,), whose distance is 0. Return (m,) bool, which are left.

    These have many stored maps with the same mean in the channel that is compared, as zeros have.
    """
    part, first = cues.part(at), found.compared
    if not len(at):
        return torch.zeros(0, dtype=torch.bool, device=at.device)
    vectors, slack = pooled(part.values)
    means, errors = part.table(vectors), part.table(slack)
    channel = means.abs().masked_fill(~part.mask, -1.0).argmax(1, keepdim=True)
    apart = stored.means[first:].double()[:, channel[:, 0]].T - means.gather(1, channel)
    numbers = torch.arange(first, len(stored), device=at.device)
    near = (apart.abs_() <= errors.gather(1, channel) + stored.errors[first:]) & (
        numbers < found.number[at, None]
    )
    many = (near.sum(1) > MANY) | ~part.mask.any(1)
    pairs = (near & ~many[:, None]).nonzero()
    while len(pairs):  # in each round at most one map per cue, the first that is left
        is_first = _starts(pairs)
        cue, column = pairs[is_first].T
        _compare(cues, stored, found, at[cue], column + first)
        pairs = pairs[~is_first]
        pairs = pairs[pairs[:, 1] + first < found.number[at[pairs[:, 0]]]]
    return many


def _are_left(bounds: torch.Tensor, number: torch.Tensor, found: Found) -> torch.Tensor:
    """Return (..., n) bool: whether maps with bounds (..., n) could take the place of what was found."""
    return (bounds < found.distance) | ((bounds == found.distance) & (number < found.number))


def _starts(pairs: torch.Tensor) -> torch.Tensor:
    """Return (P,) bool, true at the first of the pairs (P, 2) of each cue."""
    is_first = torch.ones(len(pairs), dtype=torch.bool, device=pairs.device)
    is_first[1:] = pairs[1:, 0] != pairs[:-1, 0]
    return is_first


def _search_by_bounds(
    cues: Observed, stored: StoredMaps, found: Found, scores: Scores, flops: FlopCount
) -> None:
    """Update `found` of cues in every state."""
    first, everyone = found.compared, torch.arange(len(cues), device=cues.mask.device)
    bounds = lower_bounds(cues, stored, first, flops)
    closest = bounds.argmin(1)
    able = _are_left(bounds[everyone, closest], closest + first, found).nonzero().flatten()
    _compare(cues, stored, found, able, closest[able] + first)
    numbers = torch.arange(first, len(stored), device=everyone.device)
    left = _are_left(bounds.T, numbers[:, None], found).T
    left[everyone, closest] = False
    many = left.sum(1) > MANY
    pairs = (left & ~many[:, None]).nonzero()
    while len(pairs):  # in each round at most one map per cue, the first that is left
        is_first = _starts(pairs)
        cue, column = pairs[is_first].T
        _compare(cues, stored, found, cue, column + first)
        pairs = pairs[~is_first]
        pairs = pairs[bounds[pairs[:, 0], pairs[:, 1]] <= found.distance[pairs[:, 0]]]
    if bool(many.any()):
        at = many.nonzero().flatten()
        _compare(cues, stored, found, at, best_scores(cues.part(at), stored, first, scores))


def _compare(
    cues: Observed, stored: StoredMaps, found: Found, at: torch.Tensor, number: torch.Tensor
) -> None:
    """Offer the stored maps `number` (m,) to the cues at (m,), which ascend."""
    for some, numbers in zip(at.split(BLOCK), number.split(BLOCK), strict=True):
        if len(some):
            own = cues.part(some)
            difference = own.values - stored.rows(numbers)[own.mask]
            squares = difference.square_().flatten(1).sum(1)
            found.offer(some, numbers, own.table(squares).sum(1))


def lower_bounds(cues: Observed, stored: StoredMaps, first: int, flops: FlopCount) -> torch.Tensor:
    """Return lower bounds (n, N) float64 of the squared distances of n cues and the maps from `first` on.

    The bound is 0 for equal means.
    """
    vectors, slack = pooled(cues.values)
    own, slack = cues.table(vectors), cues.table(slack).norm(dim=1)
    means, errors, mask = stored.means[first:], stored.errors[first:], cues.mask
    bounds = torch.empty(len(cues), len(means), dtype=torch.float64, device=mask.device)
    if len(mask.unique(dim=0)) > max(1, len(mask) // 8):  # few cues share masks: one product
        wide = means.double()
        flops.product(2, *own.shape, len(means))
        bounds = _distances(own, wide, mask.double() @ wide.square().T)
    else:
        for row, rows in by_mask(mask):
            wide = means[:, row].double()
            flops.product(len(rows), wide.shape[1], len(wide))
            bounds[rows] = _distances(own[rows][:, row], wide, wide.square().sum(1))
    bounds = (bounds - slack[:, None] - errors).clamp_min_(0).square_()
    return bounds * math.prod(cues.values.shape[1:])


def _distances(own: torch.Tensor, means: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Return distances (n, N) of own (n, k) and means (N, k).

    norms (n, N) or (N,): squared norms of the means over the observed channels.
    """
    squares = own.square().sum(1)[:, None]
    return (squares + norms - 2 * own @ means.T).clamp_min_(0).sqrt_()


def best_scores(cues: Observed, stored: StoredMaps, first: int, scores: Scores) -> torch.Tensor:
    """Return the number (n,) of the map with the largest score from `first` on, the first one of equals.

    Compares all cues with a block of maps at a time.
    """
    full, mask = cues.full().float(), cues.mask
    best = torch.full((len(cues),), -math.inf, device=mask.device)
    number = torch.full((len(cues),), first, device=mask.device)
    for block in torch.arange(first, len(stored), device=mask.device).split(2 * BLOCK):
        value, column = scores(full, mask, stored.rows(block).float()).max(1)
        better = value > best
        best, number = torch.where(better, value, best), torch.where(better, block[column], number)
    return number
