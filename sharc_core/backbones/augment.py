"""Random shifts and flips of a batch of images, with one gather per batch."""

from dataclasses import dataclass

from sharc_core.common.deferred import torch


@dataclass(frozen=True)
class Moves:
    """Moves of n images: rows, columns (n, 1) int64 in pixels, and which images are mirrored (n, 1) bool."""

    rows: torch.Tensor
    columns: torch.Tensor
    mirrored: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> "Moves":
        return Moves(self.rows[index], self.columns[index], self.mirrored[index])


def random_moves(count: int, most: int, flip: bool, source: torch.Generator) -> Moves:
    """Draw offsets in [-most, most]^2 and, if `flip`, mirror each image with probability 1/2."""
    offsets = torch.randint(-most, most + 1, (2, count, 1), generator=source)
    mirrored = torch.zeros(count, 1, dtype=torch.bool)
    if flip:
        mirrored = torch.rand(count, 1, generator=source) < 0.5
    return Moves(offsets[0], offsets[1], mirrored)


def shift_and_flip(
    images: torch.Tensor, most: int, flip: bool, source: torch.Generator, edge: bool
) -> torch.Tensor:
    """Shift each image by an integer offset in [-most, most]^2; if `flip`, mirror it with probability 1/2.

    images uint8 (B, H, W, 3), returned with the same shape and type. Pixels from outside repeat the border if
    `edge`, else they are black (the padded crop of He et al. 2016, section 4.2). source: a CPU generator.
    """
    return moved(images, random_moves(len(images), most, flip, source), edge)


def moved(images: torch.Tensor, moves: Moves, edge: bool) -> torch.Tensor:
    """Move each of the images uint8 (B, H, W, 3) by its entry of the B moves; see shift_and_flip."""
    count, height, width, _ = images.shape
    columns = torch.arange(width).expand(count, width)
    columns = torch.where(moves.mirrored, width - 1 - columns, columns)
    rows, columns = torch.arange(height) + moves.rows, columns + moves.columns
    first = torch.arange(count)[:, None, None] * (height * width)
    pixels = first + rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    picked = images.reshape(-1, 3).index_select(0, pixels.reshape(-1)).view(images.shape)
    if edge:
        return picked
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return picked * (inside_rows[:, :, None] & inside_columns[:, None, :])[..., None]
