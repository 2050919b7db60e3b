"""The folders of features that cells read."""

from collections.abc import Callable, Sequence

from sharc_core.features.drifting.part import Kept
from sharc_core.features.folders import EncodedFolder, FeaturesFolder, ViewFolder
from sharc_core.features.views import needed_views, view_of
from sharc_core.grid.cell import Cell
from sharc_core.grid.drifting_parts import parts_of
from sharc_core.representations import REPRESENTATIONS
from sharc_core.representations.codec import Codec


def folders_of(
    cells: Sequence[Cell], batch_norm: str, views: int, kept: Callable[[], Kept]
) -> list[FeaturesFolder]:
    """Return the folders that cells of one data set and backbone read, in the order in which they are opened.

    batch_norm, views: of the backbone. kept: returns the training maps that a drifting backbone's parts hold.
    """
    if batch_norm == "drifting":
        # no cells if the backbone drifts only in a study on another data set
        return list(parts_of(cells, kept())) if cells else []
    numbers = needed_views([seed for cell in cells for seed in cell.seeds], views)
    encoded = [
        EncodedFolder(codec, view_of(seed, views))
        for cell in cells
        if (codec := codec_of(cell)) is not None
        for seed in cell.seeds
    ]
    return [*(ViewFolder(number) for number in numbers), *dict.fromkeys(encoded)]


def codec_of(cell: Cell) -> Codec | None:
    """Return the codec of the images that a cell stores; None if it stores no encoded images."""
    if cell.buffer is None:
        return None
    kind = REPRESENTATIONS.get(cell.storage)
    codec = kind.codec_of(kind.Settings.model_validate(cell.storage_settings))
    assert codec is None or isinstance(codec, Codec)
    return codec


def stores_pixels(cell: Cell) -> bool:
    """Return whether a cell stores images as they are, whose size the prepared data set tells."""
    if cell.buffer is None:
        return False
    kind = REPRESENTATIONS.get(cell.storage)
    return kind.replays_images and not kind.stores_encodings
