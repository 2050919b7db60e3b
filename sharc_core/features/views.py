"""Views: the original or augmented copies of the training images, one of which each seed trains on.

View 0 is the original images. With n >= 2 views, there are the augmented views 1 to n, and seed s trains on
view 1 + s mod n. All views have the same labels and share one set of test features.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.mapped import read_rows


class View(Protocol):
    """The training features of one view."""

    @property
    def maps(self) -> torch.Tensor:
        """Return maps (N, K, h, w)."""

    @property
    def pooled(self) -> torch.Tensor:
        """Return pooled vectors (N, K)."""


class TrainingFeatures(Protocol):
    """Training features of the first view, their labels, and the further views."""

    @property
    def train_maps(self) -> torch.Tensor:
        """Return maps (N, K, h, w)."""

    @property
    def train_pooled(self) -> torch.Tensor:
        """Return pooled vectors (N, K)."""

    @property
    def train_labels(self) -> torch.Tensor:
        """Return labels (N,) int64."""

    @property
    def further_views(self) -> Mapping[int, View]:
        """Return the further views by number."""


class EncodedImages(Protocol):
    """The training images of one view, encoded."""

    @property
    def pooled(self) -> torch.Tensor:
        """Return the pooled vectors (N, K) of the decoded images."""

    @property
    def sizes(self) -> torch.Tensor:
        """Return the bytes of their files, (N,) int64."""


@dataclass(frozen=True)
class Visits:
    """Features of one task's training images at the time when one seed's network visits them.

    order (n,): indices of the images in the order of the visit. pooled (n, K). nonzero (n, K): number of
    values of each channel that are not zero. maps (m, K, h, w): maps of the last m images.
    """

    order: torch.Tensor
    pooled: torch.Tensor
    nonzero: torch.Tensor
    maps: torch.Tensor


@dataclass(frozen=True)
class DriftingFeatures:
    """The features that DriftingReplicas reads. sharc_core.features.drifting.reading opens them.

    train_maps (N, K, h, w), train_pooled (N, K): on the meta device, shapes without values, because the
    values depend on the seed. visits, joint: for each task its Visits, in the stream's and in JOINT's order.
    tested: for each task the pooled vectors of the first test images of test_order (M,). tested_at_start,
    joint_tested: pooled vectors of all test images. Keys are (seed, size of the training batches), followed
    by the number of passes in joint, tested and joint_tested.
    """

    train_maps: torch.Tensor
    train_pooled: torch.Tensor
    train_labels: torch.Tensor
    test_labels: torch.Tensor
    test_order: torch.Tensor
    tested_at_start: torch.Tensor
    visits: dict[tuple[int, int], list[Visits]]
    joint: dict[tuple[int, int, int], list[Visits]]
    tested: dict[tuple[int, int, int], list[torch.Tensor]]
    joint_tested: dict[tuple[int, int, int], torch.Tensor]
    classes: list[str]
    manifest: dict


class TestFeatures(Protocol):
    """Labels of the test images and their pooled vectors."""

    @property
    def test_labels(self) -> torch.Tensor:
        """Return labels (M,) int64."""

    def tested(self, index: torch.Tensor) -> torch.Tensor | None:
        """Return pooled vectors (n, K) or (R, n, K) of test images (n,); None if they are not tested."""


def view_numbers(views: int) -> list[int]:
    """Return the numbers of a backbone's views. The first view's folder also holds the test features."""
    return [0] if views == 1 else list(range(1, views + 1))


def view_of(seed: int, views: int) -> int:
    """Return the view that a seed trains on."""
    return view_numbers(views)[seed % views]


def needed_views(seeds: list[int], views: int) -> list[int]:
    """Return the views that a cell reads: those of its seeds, and the first one for the test images."""
    return sorted({view_numbers(views)[0], *(view_of(seed, views) for seed in seeds)})


def replicas_of(
    features: "TrainingFeatures | DriftingFeatures",
    seeds: list[int],
    views: int,
    batch_size: int,
    joint: int | None = None,
) -> "ReplicaViews | DriftingReplicas":
    """Return the ReplicaViews or DriftingReplicas of the seeds, depending on the type of features.

    views: number of views of a frozen backbone. batch_size, joint: see DriftingReplicas.
    """
    if isinstance(features, DriftingFeatures):
        return DriftingReplicas(features, seeds, batch_size, joint)
    return ReplicaViews(features, seeds, views)


class ReplicaViews:
    """The training features of R replicas. Replica r reads the view of its seed.

    Raises UserError when the features lack one of those views.
    """

    def __init__(self, features: TrainingFeatures, seeds: list[int], views: int = 1):
        self.features = features
        self._numbers = numbers = [view_of(seed, views) for seed in seeds]
        arrays = {view_numbers(views)[0]: (features.train_maps, features.train_pooled)}
        if set(numbers) - set(arrays):
            arrays |= {n: (view.maps, view.pooled) for n, view in features.further_views.items()}
        missing = set(numbers) - set(arrays)
        if missing:
            raise UserError(f"the features lack view {min(missing)}: extract it, or train on fewer views")
        self._maps = [arrays[number][0] for number in numbers]
        self._pooled = [arrays[number][1] for number in numbers]
        # replicas by view; a single group if all replicas read the same view
        self._groups = [
            (torch.tensor([r for r, n in enumerate(numbers) if n == number]), arrays[number][1])
            for number in sorted(set(numbers))
        ]

    def first_like(self, replica: int) -> int:
        """Return the first replica with the same training features."""
        return self._numbers.index(self._numbers[replica])

    def maps(self, replica: int, index: torch.Tensor) -> torch.Tensor:
        """Return training maps (n, K, h, w) of the images `index` (n,) in one replica's view."""
        return read_rows(self._maps[replica], index)

    def vectors(self, replica: int, index: torch.Tensor) -> torch.Tensor:
        """Return pooled training vectors (n, K) of the images `index` (n,) in one replica's view."""
        return self._pooled[replica][index]

    def pooled(self, index: torch.Tensor) -> torch.Tensor:
        """Return pooled training vectors (R, n, K) of `index` (R, n), each replica's from its view."""
        if len(self._groups) == 1:
            return self._groups[0][1][index]
        vectors = self.features.train_pooled.new_empty(*index.shape, self.features.train_pooled.shape[1])
        for replicas, pooled in self._groups:
            vectors[replicas] = pooled[index[replicas]]
        return vectors

    def nonzero(self, replica: int, index: torch.Tensor) -> torch.Tensor:
        """Return each channel's number of non-zero values, (n, K), in the training maps of `index` (n,)."""
        return (self.maps(replica, index) != 0).sum((2, 3))

    def encoded(self, replica: int, codec: Hashable) -> EncodedImages:
        """Return the training images of one replica's view as a codec encodes them.

        Raises UserError if the features lack them.
        """
        # only features.opening adds them, to the features of cells that store encoded images
        by_codec: Mapping[tuple[Hashable, int], EncodedImages] = getattr(self.features, "encoded", {})
        key = (codec, self._numbers[replica])
        if key not in by_codec:
            raise UserError(f"the features lack the images of view {key[1]} as {codec}: extract them")
        return by_codec[key]

    def tests(self, task: int | None, passes: int | None) -> TestFeatures:
        """Return the test features after a task; a frozen network's are always the same."""
        return cast(TestFeatures, self.features)


class DriftingReplicas:
    """Drifting features of R replicas. Replica r reads what its seed's network computed at the visit.

    batch_size: of training. joint: JOINT's number of passes, to read the images in JOINT's order; None reads
    the stream's. Raises UserError when the features lack a seed, or when a memory holds a sample whose map
    was not kept.
    """

    def __init__(
        self, features: DriftingFeatures, seeds: list[int], batch_size: int, joint: int | None = None
    ):
        self.features = features
        self.seeds = seeds
        self._batch_size, self._joint = batch_size, joint
        source = features.visits if joint is None else features.joint
        self._visits = [self._of_seed(source, seed, joint) for seed in seeds]
        # the task of each training image and its position in the task
        self._places = [_places(tasks, len(features.train_labels)) for tasks in self._visits]

    def _of_seed(self, source: dict, seed: int, passes: int | None):
        """Return a seed's entry in features.visits (passes None), tested, joint or joint_tested.

        Raises UserError for a missing entry.
        """
        key = (seed, self._batch_size) if passes is None else (seed, self._batch_size, passes)
        if key not in source:
            of = "" if passes is None else f" and {passes} passes"
            raise UserError(
                f"the drifting features lack seed {seed} in batches of {self._batch_size}{of}: extract them"
            )
        return source[key]

    def first_like(self, replica: int) -> int:
        """Return the first replica with the same training features, which is the replica itself."""
        return replica

    def maps(self, replica: int, index: torch.Tensor) -> torch.Tensor:
        """Return the training maps (n, K, h, w) of `index` (n,) at the time of the visit.

        Raises UserError for a sample whose map was not kept.
        """
        tasks, position = (places[index] for places in self._places[replica])
        maps = self.features.train_maps.new_empty(
            len(index), *self.features.train_maps.shape[1:], device="cpu"
        )
        for task in tasks.unique().tolist():
            here, visits = tasks == task, self._visits[replica][task]
            offset = len(visits.order) - len(visits.maps)
            if bool((position[here] < offset).any()):
                raise UserError(
                    f"seed {self.seeds[replica]}: a memory holds older samples of task {task + 1} than the "
                    f"{len(visits.maps)} last ones, whose maps alone the drifting features keep: set "
                    "`maps: all` in the backbone's block"
                )
            maps[here] = read_rows(visits.maps, position[here] - offset)
        return maps

    def vectors(self, replica: int, index: torch.Tensor) -> torch.Tensor:
        """Return the pooled training vectors (n, K) of `index` (n,) at the time of the visit."""
        return self._rows(replica, index, "pooled")

    def pooled(self, index: torch.Tensor) -> torch.Tensor:
        """Return the pooled training vectors (R, n, K) of `index` (R, n)."""
        return torch.stack([self._rows(r, row, "pooled") for r, row in enumerate(index)])

    def nonzero(self, replica: int, index: torch.Tensor) -> torch.Tensor:
        """Return each channel's number of non-zero values, (n, K), in the training maps of `index` (n,)."""
        return self._rows(replica, index, "nonzero").long()

    def _rows(self, replica: int, index: torch.Tensor, name: str) -> torch.Tensor:
        tasks, position = (places[index] for places in self._places[replica])
        gathered: torch.Tensor | None = None
        for task in tasks.unique().tolist():
            here, rows = tasks == task, getattr(self._visits[replica][task], name)
            gathered = rows.new_empty(len(index), rows.shape[1]) if gathered is None else gathered
            gathered[here] = rows[position[here]]
        assert gathered is not None  # there is at least one sample
        return gathered

    def encoded(self, replica: int, codec: Hashable) -> EncodedImages:
        """Raise UserError: a replayed image would have other features than at its visit."""
        raise UserError("images cannot be stored with a drifting batch norm: use another storage")

    def tests(self, task: int | None, passes: int | None) -> TestFeatures:
        """Return the test features after a task; task None means before all, with the network's statistics.

        passes: number of passes of each training batch; None if the network saw no training batch.
        """
        source = self.features
        if task is None or passes is None:
            return _Tested(source, [source.tested_at_start])
        if self._joint is not None:
            return _Tested(source, [self._of_seed(source.joint_tested, s, self._joint) for s in self.seeds])
        return _Tested(source, [self._of_seed(source.tested, s, passes)[task] for s in self.seeds])


Views = ReplicaViews | DriftingReplicas


def _places(tasks: list[Visits], samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the task and the position in it, each (N,) int64, of every training image."""
    task, position = torch.empty(2, samples, dtype=torch.int64)
    for number, visits in enumerate(tasks):
        task[visits.order], position[visits.order] = number, torch.arange(len(visits.order))
    return task, position


class _Tested:
    """Pooled vectors of the first test images of the stream's order, per replica or one for all."""

    def __init__(self, source: DriftingFeatures, rows: list[torch.Tensor]):
        self.test_labels = source.test_labels
        self._rows = rows
        self._at = torch.empty_like(source.test_order)
        self._at[source.test_order] = torch.arange(len(source.test_order))

    def tested(self, index: torch.Tensor) -> torch.Tensor | None:
        """Return the pooled vectors (R, n, K) of test images `index` (n,); None if they were not tested."""
        at = self._at[index]
        if len(self._rows[0]) <= int(at.max()):
            return None
        return torch.stack([rows[at] for rows in self._rows])
