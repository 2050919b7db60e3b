"""The parts of drifting features that cells read: their cost, and the training maps kept in them."""

import math
from collections.abc import Iterable
from dataclasses import replace

from sharc_core.features.drifting.part import START, Kept, Part
from sharc_core.features.views import view_of
from sharc_core.grid.cell import Cell
from sharc_core.methods import METHODS
from sharc_core.representations import REPRESENTATIONS
from sharc_core.selection import SELECTIONS
from sharc_core.streams.settings import StreamConfig

MARGIN = 3  # budget of non-zero values: keep this many times the samples that fit at an average cost
SLOT_VALUE_BYTES = 2  # bytes of a value in a slot of the buffer, which holds a float16 map


def parts_of(cells: Iterable[Cell], kept: Kept) -> list[Part]:
    """Return the parts that cells of one data set and backbone read, each after its source."""
    parts: dict[Part, None] = {START: None}
    for cell in cells:
        kind = "joint" if METHODS.get(cell.method).joint else "tests"
        for seed in cell.seeds:
            part = Part(kind, seed, view_of(seed, cell.views), cell.training.batch_size, cell.passes)
            parts |= {part: None} if kind == "joint" else {part.source(kept): None, part: None}
    return list(parts)


def is_read(part: Part, cell: Cell) -> bool:
    """Return whether a cell reads a part, regardless of the kept maps."""
    return any(replace(part, kept=None) == replace(one, kept=None) for one in parts_of([cell], Kept()))


def extent(
    part: Part, counts: dict[str, int], stream: StreamConfig, shape: tuple[int, int, int]
) -> tuple[int, int]:
    """Return how many images a part runs through the network, and about how many bytes it takes on disk.

    counts: images per split. shape: (K, h, w) of a map. Where a budget counts non-zero values, half of all
    values are assumed to be zero.
    """
    train, test, vector = counts["train"], counts["test"], 4 * shape[0]
    after = sum(int(test * sum(stream.shares[: task + 2])) for task in range(stream.count))
    images = {"start": test, "train": train, "joint": train + test, "tests": after}[part.kind]
    if part.kind in ("start", "tests"):
        return images, images * vector + 16 * (train + test)
    size = images * (vector + shape[0])
    if part.kept is not None:
        most = math.ceil(train * max(stream.shares))
        kept = most if part.kept.samples is None else min(most, max(part.kept.samples, 2 * part.kept.full))
        size += stream.count * kept * 2 * math.prod(shape)
    return images, size


def kept_for(cells: Iterable[Cell], everything: bool = False) -> Kept:
    """Return which maps the memories of cells of one data set and backbone may hold, rounded up.

    everything: the backbone's `maps: all`. A plain memory whose representation is the cache's own needs
    pooled vectors only. All maps are kept for selections that may store any sample. In the unit `nonzero` the
    cost of a sample is unknown in advance; MARGIN times the samples that fit with evenly distributed non-zero
    values are kept.
    """
    kept = Kept(None) if everything else Kept()
    for cell in cells:
        kept = kept | _kept_by(cell)
    if kept.samples is None:
        return kept
    return Kept(_rounded(kept.samples), _rounded(kept.full))


def _kept_by(cell: Cell) -> Kept:
    representation = REPRESENTATIONS.get(cell.storage)
    needs_maps = representation.stores_maps and not representation.is_cache_format
    if cell.buffer is None or (cell.variant == "plain" and not needs_maps):
        return Kept()
    theta = cell.theta or 0.0
    is_any = SELECTIONS.get(cell.selection).needs_all_candidates
    is_any = is_any or cell.budget_split == "carry" or cell.mass is not None or representation.learns
    is_unknown = cell.budget_unit == "bytes" and representation.value_bytes is None
    is_unknown = is_unknown or cell.budget_unit == "total_bytes"  # a slot has no size there
    if is_any or is_unknown or theta > 0.99:
        return Kept(None)
    share = float(max(cell.stream.shares))
    if isinstance(cell.budget_split, list):
        share = max(cell.budget_split) / sum(cell.budget_split)
    slots = cell.buffer * share + 1
    fitting = slots if cell.budget_unit == "slots" else slots / (1 - theta)
    if cell.budget_unit == "bytes":
        fitting *= SLOT_VALUE_BYTES / representation.value_bytes
    last_batches = slots + 2 * cell.training.batch_size  # the associative memory learns these, stored or not
    if cell.budget_unit == "nonzero":
        return Kept(math.ceil(last_batches), math.ceil(MARGIN * fitting))
    return Kept(math.ceil(1.02 * fitting + 2 * cell.training.batch_size))


def _rounded(number: int) -> int:
    """Return the next power of two, so that small changes of a grid need no new extraction."""
    return 1 << (number - 1).bit_length() if number else 0
