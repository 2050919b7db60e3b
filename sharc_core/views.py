"""Views: which copy of the training images, as they are or augmented, each seed's run trains on.

View 0 is the images as they are. With n >= 2 views there are the augmented views 1 to n, and seed s
trains on view 1 + s mod n. All views have the same labels and share one set of test features.
"""

from typing import Protocol

import torch

from sharc_core.errors import UserError


class View(Protocol):
    """One view's training features: maps (N, K, h, w) and pooled vectors (N, K)."""

    maps: torch.Tensor
    pooled: torch.Tensor


class TrainingFeatures(Protocol):
    """Training features: the first view's, labels (N,), and the further views by their number."""

    train_maps: torch.Tensor
    train_pooled: torch.Tensor
    train_labels: torch.Tensor
    further_views: dict[int, View]


def view_numbers(views: int) -> list[int]:
    """The views of a backbone with so many; the first one's folder holds the test images' features too."""
    return [0] if views == 1 else list(range(1, views + 1))


def view_of(seed: int, views: int) -> int:
    """The view that a seed trains on."""
    return view_numbers(views)[seed % views]


def needed_views(seeds: list[int], views: int) -> list[int]:
    """The views that a cell reads: its seeds', and the first one for the test images."""
    return sorted({view_numbers(views)[0], *(view_of(seed, views) for seed in seeds)})


class ReplicaViews:
    """The training features as each replica sees them: replica r reads its seed's view.

    Raises UserError when the features lack one of those views.
    """

    def __init__(self, features: TrainingFeatures, seeds: list[int], views: int = 1):
        self.features = features
        numbers = [view_of(seed, views) for seed in seeds]
        arrays = {view_numbers(views)[0]: (features.train_maps, features.train_pooled)}
        if set(numbers) - set(arrays):
            arrays |= {n: (view.maps, view.pooled) for n, view in features.further_views.items()}
        missing = set(numbers) - set(arrays)
        if missing:
            raise UserError(f"the features lack view {min(missing)}: extract it, or train on fewer views")
        self._maps = [arrays[number][0] for number in numbers]
        # replicas by view; the whole axis at once where all see the same
        self._groups = [
            (torch.tensor([r for r, n in enumerate(numbers) if n == number]), arrays[number][1])
            for number in sorted(set(numbers))
        ]

    def maps(self, replica: int, index: torch.Tensor) -> torch.Tensor:
        """Training maps (n, K, h, w) of index (n,) as one replica sees them."""
        return self._maps[replica][index]

    def pooled(self, index: torch.Tensor) -> torch.Tensor:
        """Pooled training vectors (R, n, K) of index (R, n), each replica's from its own view."""
        if len(self._groups) == 1:
            return self._groups[0][1][index]
        vectors = self.features.train_pooled.new_empty(*index.shape, self.features.train_pooled.shape[1])
        for replicas, pooled in self._groups:
            vectors[replicas] = pooled[index[replicas]]
        return vectors
