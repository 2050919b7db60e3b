"""Encoding: samples of the training features, as each replica's representation stores them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sharc_core.associative.rows import Rows
from sharc_core.common.deferred import torch
from sharc_core.common.pooling import widened
from sharc_core.features.views import (
    DriftingFeatures,
    DriftingReplicas,
    ReplicaViews,
    TrainingFeatures,
    replicas_of,
)
from sharc_core.memory.options import Storing
from sharc_core.representations import Stored


@dataclass(frozen=True)
class CachedMaps(Stored):
    """n full maps that are stored as the feature cache has them, so no copy is made.

    index (n,): into the training set of one replica's views. map_bytes: of one map.
    """

    views: ReplicaViews | DriftingReplicas
    replica: int
    index: torch.Tensor
    map_bytes: int

    def decode(self) -> torch.Tensor:
        """Return the maps (n, K, h, w) float32, read from the cache."""
        return widened(self.views.maps(self.replica, self.index))

    @property
    def mask(self) -> torch.Tensor:
        """(n, K) bool: all channels are kept."""
        channels = self.views.features.train_maps.shape[1]
        return torch.ones(len(self.index), channels, dtype=torch.bool)

    @property
    def nbytes(self) -> int:
        """Bytes of the maps."""
        return self.map_bytes * len(self.index)

    def pooled(self) -> torch.Tensor:
        """Return the cache's own pooled vectors (n, K); no map is read."""
        return self.views.vectors(self.replica, self.index)


def _at(read: Callable[[torch.Tensor], torch.Tensor], index: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Return what is read of the samples at positions `at` (n,) of index (N,)."""
    return read(index[at])


class Encoder:
    """Encodes samples for each replica.

    views: how the replicas see the training features. representations: one per replica.
    """

    def __init__(self, features: TrainingFeatures | DriftingFeatures, seeds: list[int], storing: Storing):
        """seeds: of the replicas."""
        channels, height, width = features.train_maps.shape[1:]
        self.views: ReplicaViews | DriftingReplicas
        self.views = replicas_of(features, seeds, storing.views, storing.batch_size)
        self.representations = [storing.representation((channels, height, width)) for _ in seeds]

    @property
    def is_cache_format(self) -> bool:
        """Whether full maps are stored as the feature cache has them."""
        return self.representations[0].is_cache_format

    @property
    def shared_bytes(self) -> int:
        """Bytes that all samples of a replica share."""
        return self.representations[0].shared_bytes

    def learn(self, index: torch.Tensor) -> None:
        """Let representations learn from the training features index (N,), before anything is encoded."""
        for replica in range(len(self.representations)):
            first = self.views.first_like(replica)
            if first < replica:  # the same features make the same codebooks
                self.representations[replica] = self.representations[first]
            else:
                read = self._reader(replica)
                self.representations[replica].learn(len(index), partial(_at, read, index))

    def _reader(self, replica: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what reads the features (n, ...) that a replica's representation takes."""
        stores_maps = self.representations[replica].stores_maps
        return partial(self.views.maps if stores_maps else self.views.vectors, replica)

    def rows(self, replica: int, index: torch.Tensor) -> Rows:
        """Return the training maps index (n,) in a replica's view, which are read when they are used."""
        return Rows(partial(self.views.maps, replica), index)

    def encode(self, replica: int, index: torch.Tensor, mask: torch.Tensor | None) -> Stored:
        """Store samples index (n,) of the training set; mask (n, K): channels to keep, None for all.

        Raises UserError for values that the representation cannot hold.
        """
        representation = self.representations[replica]
        if mask is None and representation.is_cache_format:
            map_bytes = representation.planned_bytes(representation.shape[0])
            return CachedMaps(self.views, replica, index, map_bytes)
        if (codec := representation.codec) is not None:
            images = self.views.encoded(replica, codec)
            return representation.encode_images(images.pooled[index], images.sizes[index])
        return representation.encode(self._reader(replica)(index), mask)

    def recall_error(
        self, replica: int, index: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor
    ) -> float:
        """Return the mean squared error of maps (n, K, h, w) over the channels that mask (n, K) dropped.

        index (n,): the training samples that they are of. 0 where nothing was dropped.
        """
        dropped = ~mask[:, :, None, None].expand_as(maps)
        error = (maps - widened(self.views.maps(replica, index)))[dropped].square()
        return error.mean().item() if len(error) else 0.0

    @property
    def has_halves(self) -> bool:
        """Whether the training maps are float16, so that a copy as float16 is equal."""
        return self.views.features.train_maps.dtype == torch.float16

    def is_exact(self, replica: int) -> bool:
        """Whether a replica's kept entries are stored without loss."""
        return self.has_halves and self.representations[replica].keeps_halves

    def squared_errors(
        self, replica: int, index: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the sums (n,) float64 of the squared errors that `recall_error` is the mean of."""
        error = maps - widened(self.views.maps(replica, index))
        error = torch.where(mask[:, :, None, None], 0.0, error)
        return error.square_().flatten(1).sum(1, dtype=torch.float64)
