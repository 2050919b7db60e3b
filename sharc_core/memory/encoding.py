"""Encoding: samples of the training features, as each replica's representation stores them."""

from dataclasses import dataclass

import torch

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

    def encode(self, replica: int, index: torch.Tensor, mask: torch.Tensor | None) -> Stored:
        """Store samples index (n,) of the training set; mask (n, K): channels to keep, None for all.

        Raises UserError for values that the representation cannot hold.
        """
        representation = self.representations[replica]
        if mask is None and representation.is_cache_format:
            map_bytes = representation.planned_bytes(representation.shape[0])
            return CachedMaps(self.views, replica, index, map_bytes)
        read = self.views.maps if representation.stores_maps else self.views.vectors
        return representation.encode(read(replica, index), mask)

    def recall_error(
        self, replica: int, index: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor
    ) -> float:
        """Return the mean squared error of maps (n, K, h, w) over the channels that mask (n, K) dropped.

        index (n,): the training samples that they are of. 0 where nothing was dropped.
        """
        dropped = ~mask[:, :, None, None].expand_as(maps)
        error = (maps - widened(self.views.maps(replica, index)))[dropped].square()
        return error.mean().item() if len(error) else 0.0
