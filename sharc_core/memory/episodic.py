"""Episodic memory: stores samples of every task, sparse or full, and hands them back for replay.

A method asks for minibatches or for all samples of a past task, and cannot tell how they were stored. SHARC
is such a memory with a saliency and an associative memory (AM); plain replay is one with neither.
"""

from sharc_core.common.deferred import torch
from sharc_core.common.phases import SALIENCY, phase
from sharc_core.common.seeds import generator
from sharc_core.features.views import DriftingFeatures, TrainingFeatures
from sharc_core.heads import Batch, Head
from sharc_core.memory.options import SharcSettings, Storing
from sharc_core.memory.replay import ReplaySet
from sharc_core.memory.stored_task import StoredTask
from sharc_core.representations import REPRESENTATIONS
from sharc_core.saliency import SALIENCIES


class EpisodicMemory:
    """The memories of all R replicas, as the learner and the methods see them; this one stores nothing.

    The learner calls `begin_task`, `begin_pass` for each pass over the task, `visit` before and `admit` after
    each step, and `store` at the end of the task. Methods call `sample`, `tasks` and `contents`.
    """

    def __init__(
        self,
        features: TrainingFeatures | DriftingFeatures,
        seeds: list[int],
        sharc: SharcSettings | None = None,
        storing: Storing | None = None,
        device: torch.device | str = "cpu",
    ):
        """seeds: of the replicas. sharc: None for plain replay. storing: None for the defaults."""
        self.features = features
        self.seeds = seeds
        self.sharc = sharc
        self.storing = storing or Storing()
        self.device = torch.device(device)
        self.replay = ReplaySet(seeds, self.device)
        self.stored: list[StoredTask] = []  # by task, if the memory knows which task its samples are of
        self._noise = [generator(s, "saliency") for s in seeds]

    # --- what the learner calls ------------------------------------------------------------------

    def begin_task(self) -> None:
        """Prepare the samples that are replayed during the coming task."""

    def begin_pass(self) -> None:
        """Start a pass over the task."""

    def visit(self, index: torch.Tensor, batch: Batch, head: Head) -> None:
        """Record what is needed of training samples index (R, B) just before a step is taken on them."""

    def admit(self) -> None:
        """Store samples of the last `visit`, now that the step on them has been taken."""

    def store(self, order: torch.Tensor, head: Head) -> None:
        """Store samples of the task that has just been learnt.

        order (R, N): training indices of the task as the replicas visited them. head: gives saliency and
        logits.
        """

    # --- what methods call -----------------------------------------------------------------------

    def __bool__(self) -> bool:
        """Whether there is anything to replay."""
        return self.replay.batch is not None

    def sample(self, size: int) -> Batch:
        """Return a minibatch (R, size, K) of distinct stored samples, drawn uniformly for each replica."""
        return self.replay.sample(size)

    def tasks(self) -> list[Batch]:
        """Return all stored samples of each past task, (R, n, K)."""
        return []

    def contents(self) -> Batch:
        """Return all stored samples, (R, N, K), as the next task would replay them; call it after `store`."""
        self.begin_task()
        assert self.replay.batch is not None, "nothing is stored yet"
        self.replay.replayed += self.samples_stored
        return self.replay.batch

    # --- accounting ------------------------------------------------------------------------------

    @property
    def samples_stored(self) -> int:
        """Samples per replica."""
        return 0

    def episodic_bytes(self) -> list[int]:
        """Return the bytes stored per replica: maps as represented, labels and logits."""
        return [0] * len(self.seeds)

    def associative_bytes(self) -> list[int]:
        """Return the bytes of each replica's AM."""
        if self.sharc is None:
            return [0] * len(self.seeds)
        return [memory.state_bytes for memory in self.sharc.associative]

    def flops(self) -> list[int]:
        """Return the operations of each replica's AM so far; the head counts those of the saliency."""
        if self.sharc is None:
            return [0] * len(self.seeds)
        return [memory.flops.shared for memory in self.sharc.associative]

    def backbone_passes(self) -> int:
        """Return how many replayed samples per replica are stored as images, which pass the backbone."""
        return self.replay.replayed if REPRESENTATIONS.get(self.storing.storage).replays_images else 0

    def recall_mse(self) -> list[float | None]:
        """Return each replica's mean squared error over dropped entries; None if nothing was completed."""
        return [None] * len(self.seeds)

    # --- for subclasses --------------------------------------------------------------------------

    @phase(SALIENCY)
    def _saliency(self, x: torch.Tensor, y: torch.Tensor, head: Head) -> torch.Tensor:
        """Return the saliency (R, n, K) of samples x (R, n, K) with labels y (R, n), on the CPU."""
        assert self.sharc is not None
        height, width = self.features.train_maps.shape[-2:]
        return SALIENCIES.get(self.sharc.saliency)(head, x, y, height * width, self._noise).cpu()
