"""The interface of a representation: how the maps of samples are stored, and how many bytes that takes."""

import math
from collections.abc import Callable, Hashable
from typing import Any

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.common.registry import Registry
from sharc_core.common.settings import Settings as BaseSettings

REPRESENTATIONS = Registry("storage", "sharc_core.representations")


class Stored:
    """n encoded samples, as `Representation.encode` returns them."""

    @property
    def mask(self) -> torch.Tensor:
        """(n, K) bool, true where a channel was kept."""
        raise NotImplementedError  # abstract

    @property
    def nbytes(self) -> int:
        """Bytes held, counted from the stored tensors."""
        raise NotImplementedError  # abstract

    def decode(self) -> torch.Tensor:
        """Return the maps (n, K, h, w), zero where a channel was dropped, or the pooled vectors (n, K).

        float32; float64 for values that are stored as such.
        """
        raise NotImplementedError  # abstract

    def kept_channels(self) -> torch.Tensor:
        """Return the kept channels of the maps, (M, h, w) as `decode` has them, map after map."""
        return self.decode()[self.mask]

    def pooled(self) -> torch.Tensor:
        """Return the vectors (n, K) to replay."""
        decoded = self.decode()
        return pool(decoded) if decoded.ndim == 4 else decoded


class Representation:
    """One replica's way of storing maps of one shape. Subclass it under `@REPRESENTATIONS.register("name")`.

    The name is a value of `storage` in a grid file. Implement `encode`, which returns a `Stored`, and
    `planned_bytes`. The class attributes are traits: configuration checks, budgets and the episodic memory
    read them and never the name.

    stores_maps: `encode` takes maps and `decode` returns maps. False: both handle pooled vectors (n, K);
    there is then nothing for an associative memory to complete, so the grid needs `variants: [plain]`.
    takes_masks: `encode` can drop channels. False: it stores all of them, so the grid needs
    `variants: [plain]`, too.
    contents: what is stored, as error messages call it.
    learns: `learn` sets a state that all samples share, such as a codebook.
    replays_images: what is stored is the image, which passes through the backbone whenever it is replayed.
    That of a frozen backbone is known beforehand, so `encode` takes its result, pooled vectors.
    stores_encodings: what is stored of an image is a file, whose bytes differ between samples. `codec_of`
    then names the codec, `encode_images` takes the place of `encode`, and a sample keeps the bytes of its
    file instead of channels.
    is_cache_format: a full map is stored as the feature cache has it. A memory without SHARC then replays the
    cache's pooled vectors, reads no maps and holds `planned_bytes` by definition.
    keeps_halves: maps of float16 values are decoded as they were.
    plans_exactly: `planned_bytes` is what samples take. False: it is an upper bound.
    value_bytes: a lower bound on the bytes of one value, to estimate how many samples fit. None: unknown.
    in_grids: a grid file may ask for it. False: for tests only.
    """

    name: str
    settings: Any  # of this class's Settings
    stores_maps = True
    takes_masks = True
    contents = "maps"
    learns = False
    replays_images = False
    stores_encodings = False
    is_cache_format = False
    keeps_halves = False
    plans_exactly = True
    value_bytes: float | None = None
    in_grids = True

    class Settings(BaseSettings):
        """Settings of this representation, under `storage_settings.<name>`."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        settings: BaseSettings | None = None,
        image_shape: tuple[int, int, int] | None = None,
    ):
        """shape: (K, h, w) of a map. settings: None for the defaults. image_shape: (H, W, 3) of a prepared
        image; None if there are no images.

        Raises UserError for settings that do not fit the shape, or if it needs images and there are none.
        """
        self.shape = shape
        self.image_shape = image_shape
        self.settings = self.Settings() if settings is None else settings

    def learn(self, samples: int, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Learn from the training features of the first task, before anything is encoded.

        samples: how many there are. read: returns the maps (n, K, h, w), or the pooled vectors (n, K), of
        those with numbers (n,) from 0 to samples - 1. They may lie on a disk, so read a part at a time. The
        result must not depend on the run's seed, because replicas with the same features share it.
        """

    def encode(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> Stored:
        """Store the kept channels of maps (n, K, h, w), or of pooled vectors (n, K).

        mask: (n, K) bool, true for the channels to keep; None for all. Raises UserError for kept values that
        cannot be stored.
        """
        raise NotImplementedError  # abstract

    def encode_images(self, vectors: torch.Tensor, sizes: torch.Tensor) -> Stored:
        """Store images whose files take sizes (n,) int64 bytes (`stores_encodings`).

        vectors (n, K): the pooled vectors of the decoded images.
        """
        raise NotImplementedError  # only with stores_encodings

    @classmethod
    def codec_of(cls, settings: Any) -> Hashable:
        """Return the codec under which the features have vectors and sizes (`stores_encodings`), else None.

        settings: of this class's Settings.
        """
        return None

    def planned_bytes(self, keep: int, counted: bool = False) -> int:
        """Return the bytes of one sample that keeps `keep` of its K channels, before it is encoded.

        With `stores_encodings`, `keep` is the bytes of its file.
        counted: samples differ in how many channels they keep, so the number has to be stored too. Labels and
        logits are not included, see sharc_core.memory.byte_count.
        """
        raise NotImplementedError  # abstract

    @property
    def codec(self) -> Hashable:
        """The codec of the settings; None unless `stores_encodings`."""
        return self.codec_of(self.settings)

    @property
    def shared_bytes(self) -> int:
        """Bytes that all stored samples share, for example a codebook; known before anything is encoded."""
        return 0

    def check_finite(self, stored: torch.Tensor, largest: float | None = None, other: str = "") -> None:
        """Raise UserError unless all values are finite as they are stored.

        largest: magnitude that the type holds, None for any. other: a storage that holds larger ones.
        """
        ends = torch.stack(stored.aminmax()) if stored.numel() else stored  # NaN if any value is
        if not bool(torch.isfinite(ends).all()):
            what = "maps" if self.stores_maps else "pooled vectors"
            beyond = "" if largest is None else f" or beyond {largest:,.0f}: use storage {other}"
            raise UserError(f"storage {self.name} cannot hold these {what}: a value is not finite{beyond}")

    @property
    def values_per_channel(self) -> int:
        """Values that are stored of each kept channel, which a budget of floats counts."""
        return math.prod(self.shape[1:]) if self.stores_maps else 1
