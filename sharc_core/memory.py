"""Episodic memory: stores a task's last samples, sparse or full, and hands them back for replay.

A method asks for minibatches or for a past task whole, and cannot tell how they were kept. SHARC is
this class with theta > 0 and an associative memory; plain replay is the same class with neither.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from sharc_core.associative import AssociativeMemory
from sharc_core.encoding import LABEL_BYTES, LOGIT_BYTES, SparseMaps, top_channels
from sharc_core.heads import Batch, Head
from sharc_core.pooling import pool
from sharc_core.saliency import SALIENCIES
from sharc_core.seeds import MinibatchSampler, generator


class TrainingFeatures(Protocol):
    """What the memory needs of the feature cache: maps (N, K, h, w), pooled (N, K), labels (N,)."""

    train_maps: torch.Tensor
    train_pooled: torch.Tensor
    train_labels: torch.Tensor


@dataclass
class StoredTask:
    """One task's samples for all replicas. index (R, n) into the training set; y (R, n).

    sparse: R SparseMaps, or None when samples are kept whole (the pooled vector then says it all).
    x: (R, n, D) pooled vectors as they are replayed now; logits (R, n, C) or None.
    """

    index: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor | None
    logits: torch.Tensor | None
    sparse: list[SparseMaps] | None
    map_bytes: list[int]
    recall_errors: list[float] | None = None


class EpisodicMemory:
    """All replicas' memories. See `store` (end of a task), `begin_task`, `sample` and `tasks`."""

    def __init__(
        self,
        features: TrainingFeatures,
        seeds: list[int],
        samples_per_task: int,
        theta: float = 0.0,
        associative: list[AssociativeMemory] | None = None,
        saliency: str = "gradient",
        read: str = "per_task",
        keep_logits: bool = False,
        device: torch.device | str = "cpu",
    ):
        """samples_per_task: capacity of a task's share, as Budget says.

        theta: share of the channels to drop. associative: one AM per replica, or None for plain replay.
        read: "per_task" completes everything anew at each task's start (the paper's algorithm 1);
        "at_store" completes a sample once, when it is stored (the published code).
        """
        self.features = features
        self.seeds = seeds
        self.samples_per_task = samples_per_task
        self.theta = theta
        self.associative = associative
        self.saliency = SALIENCIES.get(saliency)
        self.read = read
        self.keep_logits = keep_logits
        self.device = torch.device(device)
        self.stored: list[StoredTask] = []
        self._noise = [generator(s, "saliency") for s in seeds]
        self._replay: Batch | None = None
        self._samplers: dict[int, list[MinibatchSampler]] = {}
        self._queues: dict[int, list[torch.Tensor]] = {}
        self._draws = [generator(s, "replay") for s in seeds]

    # --- writing ---------------------------------------------------------------------------------

    def store(self, order: torch.Tensor, head: Head) -> None:
        """Keep the last samples of the task that has just been learnt.

        order: (R, N_t) training indices as the replicas visited them. head: gives saliency and logits.
        """
        index = order[:, -self.samples_per_task :]
        y = self.features.train_labels[index]
        x = self.features.train_pooled[index]
        height, width = self.features.train_maps.shape[-2:]
        device_x, device_y = x.to(self.device), y.to(self.device)
        # The whole task at once would be as right; a chunk bounds the (R, n, C) logits of long tasks.
        logits = head.logits(device_x) if self.keep_logits else None
        if self.associative is None:
            size = self.features.train_maps[0].nbytes * index.shape[1]
            stored = StoredTask(index, y, device_x, logits, None, [size] * len(self.seeds))
        else:
            saliency = self.saliency(head, device_x, device_y, height * width, self._noise).cpu()
            sparse = []
            for r, memory in enumerate(self.associative):
                maps = self.features.train_maps[index[r]]
                sparse.append(SparseMaps.encode(maps, top_channels(saliency[r], self.theta)))
                memory.write(maps, y[r])
            stored = StoredTask(index, y, None, logits, sparse, [s.nbytes for s in sparse])
            if self.read == "at_store":
                self._complete(stored)
        self.stored.append(stored)

    # --- reading ---------------------------------------------------------------------------------

    def begin_task(self) -> None:
        """Make the replay set of the coming task: complete what was stored of all earlier ones."""
        if not self.stored:
            return
        for stored in self.stored:
            if stored.sparse is not None and self.read == "per_task":
                self._complete(stored)
        logits = None
        if self.keep_logits:
            logits = torch.cat([s.logits for s in self.stored], 1)
        self._replay = Batch(
            torch.cat([s.x for s in self.stored], 1),
            torch.cat([s.y for s in self.stored], 1).to(self.device),
            logits,
        )
        self._samplers.clear()
        self._queues.clear()

    def _complete(self, stored: StoredTask) -> None:
        """Read the associative memories for one stored task; notes the recall error on the way."""
        completed, errors = [], []
        for r, (memory, sparse) in enumerate(zip(self.associative, stored.sparse, strict=True)):
            mask = sparse.mask
            recalled = memory.read(sparse.decode(), mask, stored.y[r])
            completed.append(pool(recalled))
            dropped = ~mask[:, :, None, None].expand_as(recalled)
            true = self.features.train_maps[stored.index[r]].float()
            error = (recalled - true)[dropped].square()
            errors.append(error.mean().item() if len(error) else 0.0)
        stored.x = torch.stack(completed).to(self.device)
        stored.recall_errors = errors

    def __bool__(self) -> bool:
        return self._replay is not None

    def sample(self, size: int) -> Batch:
        """A minibatch of `size` distinct stored samples, drawn uniformly, each replica its own."""
        population = self._replay.x.shape[1]
        if size not in self._samplers:
            self._samplers[size] = [MinibatchSampler(g, population, size) for g in self._draws]
            self._queues[size] = []
        queue = self._queues[size]
        if not queue:
            rows = torch.arange(len(self.seeds))[:, None, None] * population
            # (block, R, size) positions in the flattened (R * population) replay set
            block = torch.stack([s.draw() for s in self._samplers[size]]) + rows
            queue.extend(reversed(block.transpose(0, 1).contiguous().to(self.device).unbind(0)))
        flat = queue.pop()
        replay = self._replay
        return Batch(
            replay.x.flatten(0, 1)[flat],
            replay.y.flatten()[flat],
            None if replay.logits is None else replay.logits.flatten(0, 1)[flat],
        )

    def tasks(self) -> list[Batch]:
        """The whole replay set of each past task, (R, n_k, D)."""
        return [Batch(s.x, s.y.to(self.device), s.logits) for s in self.stored]

    # --- accounting ------------------------------------------------------------------------------

    @property
    def samples_stored(self) -> int:
        """Samples per replica."""
        return sum(s.index.shape[1] for s in self.stored)

    def episodic_bytes(self) -> list[int]:
        """Bytes stored per replica: values, channel numbers, labels and logits."""
        extra = sum(
            s.index.shape[1] * (LABEL_BYTES + (0 if s.logits is None else LOGIT_BYTES * s.logits.shape[-1]))
            for s in self.stored
        )
        return [extra + sum(s.map_bytes[r] for s in self.stored) for r in range(len(self.seeds))]

    def associative_bytes(self) -> list[int]:
        """Bytes of each replica's associative memory."""
        if self.associative is None:
            return [0] * len(self.seeds)
        return [memory.state_bytes for memory in self.associative]

    def recall_mse(self) -> list[float | None]:
        """Mean squared error over the dropped entries at the latest reading, averaged over tasks."""
        read = [s.recall_errors for s in self.stored if s.recall_errors is not None]
        if not read:
            return [None] * len(self.seeds)
        return torch.tensor(read, dtype=torch.float64).mean(0).tolist()
