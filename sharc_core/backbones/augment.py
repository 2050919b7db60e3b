"""Random shifts and flips of a batch of images, one gather for the whole batch."""

import torch


def shift_and_flip(
    images: torch.Tensor, most: int, flip: bool, source: torch.Generator, edge: bool
) -> torch.Tensor:
    """Shift every image by its own whole-pixel offset in [-most, most]^2; mirror half of them if `flip`.

    images uint8 (B, H, W, 3), returned likewise. What moves in from outside is the repeated border if
    `edge`, else black (the padded crop of He et al. 2016, section 4.2). Draws come from the CPU
    generator `source`.
    """
    count, height, width, _ = images.shape
    offsets = torch.randint(-most, most + 1, (2, count, 1), generator=source)
    columns = torch.arange(width).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, generator=source) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows, columns = torch.arange(height) + offsets[0], columns + offsets[1]
    first = torch.arange(count)[:, None, None] * (height * width)
    pixels = first + rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    picked = images.reshape(-1, 3).index_select(0, pixels.reshape(-1)).view(images.shape)
    if edge:
        return picked
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return picked * (inside_rows[:, :, None] & inside_columns[:, None, :])[..., None]
