"""Images that are stored encoded, as the bytes of a file, and replayed through the frozen backbone.

Exemplars as JPEG files are those of memory replay with data compression (Wang et al. 2022, arXiv
2202.06592): more samples fit, and each of them is a little wrong. Everything that a file holds is counted,
its header included (about 600 bytes for JPEG).
"""

from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.common.pooling import widened
from sharc_core.representations.base import Stored
from sharc_core.representations.pooled import PooledRepresentation, Vectors


@dataclass(frozen=True)
class EncodedImages(Vectors):
    """n encoded images.

    vectors (n, K): what the backbone computes from the decoded images. sizes (n,) int64: bytes of each file.
    """

    vectors: torch.Tensor
    sizes: torch.Tensor

    def decode(self) -> torch.Tensor:
        """Return the pooled vectors (n, K) of the decoded images."""
        return widened(self.vectors)

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return int(self.sizes.sum())


class EncodedImageRepresentation(PooledRepresentation):
    """Stores the file of the prepared image, of the view that the seed trains on. Implement `codec_of`.

    A frozen backbone computes the same vector from a decoded image each time. So the feature cache has the
    vectors and sizes of all training images, and none is decoded when it is replayed. The backbone's passes
    are to be charged all the same (`replays_images`).
    """

    contents = "images"
    replays_images = stores_encodings = True

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> Stored:
        """Raise TypeError: a vector does not have the size of an image's file; see encode_images."""
        raise TypeError(f"storage {self.name} stores images, not features: use encode_images")

    def encode_images(self, vectors: torch.Tensor, sizes: torch.Tensor) -> EncodedImages:
        """Store images whose files take sizes (n,) bytes; vectors (n, K): of the decoded images."""
        return EncodedImages(vectors, sizes)

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of a sample's file, which is what it keeps."""
        return keep
