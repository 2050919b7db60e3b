"""Cues of the study `robustness`: what is missing, and what is wrong, in a map before it is recalled.

`known` (n, K, h, w) bool is what a cue declares as known. Whole channels are missing, except under spatial
occlusion, where a rectangle of positions is missing in every channel.
"""

from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.saliency.channel_masks import kept_channels, top_mask
from sharc_core.studies.robustness.settings import BLOCK, NOISE, RANDOM, RUN, ZEROS


@dataclass(frozen=True)
class Cues:
    """n cues: maps (n, K, h, w) float, 0 where unknown; known, wrong (n, K, h, w) bool.

    wrong: entries that are declared as known and hold other values than the map.
    """

    maps: torch.Tensor
    known: torch.Tensor
    wrong: torch.Tensor


def cues_of(
    kind: str,
    maps: torch.Tensor,
    salient: torch.Tensor,
    theta: float,
    share: float,
    source: torch.Generator,
) -> Cues:
    """Return cues of one kind for maps (n, K, h, w).

    salient (n, K): channels that the saliency keeps at theta. share: of the kept channels, how many are wrong
    in the kinds with wrong masks; at least one. Raises UserError for a kind that the maps do not allow.
    """
    count, channels, height, width = maps.shape
    if kind == RANDOM:
        known = _spread(top_mask(torch.rand(count, channels, generator=source), theta), maps)
    elif kind == RUN:
        known = _spread(~channel_runs(count, channels, theta, source), maps)
    elif kind == BLOCK:
        known = ~spatial_blocks(count, height, width, theta, source)[:, None].expand_as(maps)
    else:
        known = _spread(salient, maps)
    values, wrong = maps.float(), torch.zeros_like(known)
    if kind in (ZEROS, NOISE):
        wrong = _spread(chosen_channels(salient, share, source), maps)
        noise = values.mean() + values.std() * torch.randn(values.shape, generator=source)
        values = torch.where(wrong, noise if kind == NOISE else 0.0, values)
    return Cues(torch.where(known, values, 0.0), known, wrong)


def _spread(mask: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return a mask of channels (n, K) as one of entries, (n, K, h, w)."""
    return mask[:, :, None, None].expand_as(maps)


def channel_runs(count: int, channels: int, theta: float, source: torch.Generator) -> torch.Tensor:
    """Return (count, K) bool: a run of neighbouring channels at a random place, as many as theta drops."""
    length = channels - kept_channels(channels, theta)
    start = torch.randint(channels - length + 1, (count, 1), generator=source)
    number = torch.arange(channels)
    return (number >= start) & (number < start + length)


def block_sides(height: int, width: int, theta: float) -> tuple[int, int]:
    """Return the sides of the rectangle whose share of height x width is nearest to theta.

    It never covers all positions. Of equal areas the most square is taken. Raises UserError for maps of one
    position.
    """
    if height * width == 1:
        raise UserError("maps of one position have no spatial block that could be missing")
    sides = [
        (a, b)
        for a in range(1, height + 1)
        for b in range(1, width + 1)
        if a * b < height * width  # else the cue would be empty
    ]
    return min(sides, key=lambda ab: (abs(ab[0] * ab[1] - theta * height * width), abs(ab[0] - ab[1])))


def spatial_blocks(
    count: int, height: int, width: int, theta: float, source: torch.Generator
) -> torch.Tensor:
    """Return (count, height, width) bool: a rectangle of `block_sides` at a random place in each map."""
    a, b = block_sides(height, width, theta)
    top = torch.randint(height - a + 1, (count, 1, 1), generator=source)
    left = torch.randint(width - b + 1, (count, 1, 1), generator=source)
    row, column = torch.arange(height)[:, None], torch.arange(width)
    return (row >= top) & (row < top + a) & (column >= left) & (column < left + b)


def chosen_channels(mask: torch.Tensor, share: float, source: torch.Generator) -> torch.Tensor:
    """Return (n, K) bool: a share of the true entries of each row of a mask (n, K), at random, at least one.

    The number is rounded to the nearest integer.
    """
    order = torch.where(mask, torch.rand(mask.shape, generator=source), 2.0).argsort(1)
    number = (share * mask.sum(1, keepdim=True) + 0.5).floor().clamp_min(1)
    first = torch.arange(mask.shape[1]).expand_as(order) < number
    return torch.zeros_like(mask).scatter_(1, order, first) & mask
