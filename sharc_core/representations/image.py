"""The image itself, uint8, which passes through the frozen backbone whenever it is replayed."""

import math
from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.pooling import widened
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.representations.base import REPRESENTATIONS
from sharc_core.representations.pooled import PooledRepresentation, Vectors


@dataclass(frozen=True)
class ReplayedImages(Vectors):
    """n stored images. vectors (n, K): what the backbone computes from them. image_bytes: of one of them."""

    vectors: torch.Tensor
    image_bytes: int

    def decode(self) -> torch.Tensor:
        """Return the pooled vectors (n, K) of the images."""
        return widened(self.vectors)

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return len(self.vectors) * self.image_bytes


@REPRESENTATIONS.register("image")
class Image(PooledRepresentation):
    """The pixels of the prepared image: H W 3 bytes, of the view that the seed trains on.

    A frozen backbone computes the cached features from them each time. So the cached vector is replayed, and
    no image is read. The backbone's passes are to be charged all the same (`replays_images`).
    """

    contents = "images"
    replays_images = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: BaseSettings | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        """For the arguments see Representation. Raises UserError if the size of the images is not known."""
        super().__init__(shape, settings, image_shape)
        if image_shape is None:
            raise UserError(
                f"storage {self.name} needs the prepared images of the data set, which tell their size: "
                "prepare them again, or use another storage"
            )
        self.image_bytes = math.prod(image_shape)

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> ReplayedImages:
        """Store the images whose pooled vectors are maps (n, K)."""
        return ReplayedImages(maps, self.image_bytes)

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of an image, whatever is kept."""
        return self.image_bytes
