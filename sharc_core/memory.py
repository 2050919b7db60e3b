"""Episodic memory: stores a task's last samples, sparse or full, and hands them back for replay.

A method asks for minibatches or for a past task whole, and cannot tell how they were kept. SHARC is
this class with a saliency and an associative memory; plain replay is the same class with neither. The
AM learns the whole maps of the samples that are stored, not of the whole task.
"""

from dataclasses import dataclass

import torch

from sharc_core.associative import AssociativeMemory
from sharc_core.budget import Budget
from sharc_core.encoding import LABEL_BYTES, LOGIT_BYTES, SparseMaps, kept_channels, kept_mask
from sharc_core.errors import UserError
from sharc_core.heads import Batch, Head
from sharc_core.pooling import pool
from sharc_core.saliency import SALIENCIES
from sharc_core.seeds import MinibatchSampler, generator
from sharc_core.views import ReplicaViews, TrainingFeatures

COUNTED = 256  # maps whose non-zero values are counted at a time


@dataclass
class StoredTask:
    """One task's samples for all replicas. index (R, n) into the training set; y (R, n).

    sparse: R SparseMaps of what is kept, or None when whole maps are kept as the feature cache has them
    (the pooled vector then says it all). x: (R, n, D) pooled vectors as they are replayed now; logits
    (R, n, C) or None.
    """

    index: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor | None
    logits: torch.Tensor | None
    sparse: list[SparseMaps] | None
    map_bytes: list[int]
    recall_errors: list[float] | None = None


@dataclass(frozen=True)
class SharcSettings:
    """How the SHARC variant stores and recalls.

    theta: share of the channels to drop, or mass: share of the saliency to keep. importance: what of the
    saliency counts, see encoding.kept_mask. associative: one AM per replica. read: "per_task" completes
    everything anew at each task's start (the paper's algorithm 1); "at_store" completes a sample once,
    when it is stored, and keeps it completed (the published code). forget_every: before the maps of every
    so manieth task are written the AM forgets, by forget_beta; None: never.
    """

    associative: list[AssociativeMemory]
    theta: float | None = None
    mass: float | None = None
    saliency: str = "gradient"
    importance: str = "absolute"
    read: str = "per_task"
    forget_every: int | None = None
    forget_beta: float = 0.1


class EpisodicMemory:
    """All replicas' memories. See `store` (end of a task), `begin_task`, `sample` and `tasks`."""

    def __init__(
        self,
        features: TrainingFeatures,
        seeds: list[int],
        budget: Budget | None,
        sharc: SharcSettings | None = None,
        storage: str = "float16",
        keep_logits: bool = False,
        device: torch.device | str = "cpu",
        views: int = 1,
    ):
        """budget: what may be kept; None: nothing is ever stored. sharc: None for plain replay.

        storage: type of the stored values, see encoding.DTYPES. views: see sharc_core.views.
        """
        self.features = features
        self.views = ReplicaViews(features, seeds, views)
        self.seeds = seeds
        self.budget = budget
        self.sharc = sharc
        self.storage = storage
        self.keep_logits = keep_logits
        self.device = torch.device(device)
        self.stored: list[StoredTask] = []
        self._left = 0
        self._noise = [generator(s, "saliency") for s in seeds]
        self._replay: Batch | None = None
        self._samplers: dict[int, list[MinibatchSampler]] = {}
        self._queues: dict[int, list[torch.Tensor]] = {}
        self._draws = [generator(s, "replay") for s in seeds]

    # --- writing ---------------------------------------------------------------------------------

    def store(self, order: torch.Tensor, head: Head) -> None:
        """Keep the last samples of the task that has just been learnt, as many as the budget holds.

        order: (R, N_t) training indices as the replicas visited them. head: gives saliency and logits.
        Raises UserError when not one sample fits, or when replicas would keep different numbers of
        samples (Cell.has_ragged_tasks: run the seeds one by one, as run_cell does).
        """
        masks = self._masks(order, head)
        fits = [
            self.budget.fitting(len(self.stored), kept, self.samples_stored, self._left)
            for kept in self._amounts(order, masks)
        ]
        if len({count for count, _ in fits}) > 1:
            raise UserError("each seed would keep another number of samples: run them one by one")
        count, self._left = fits[0]
        index = order[:, -count:]
        y = self.features.train_labels[index]
        x = self.views.pooled(index)
        logits = head.logits(x.to(self.device)) if self.keep_logits else None
        if self.sharc is None and self.storage == "float16":
            size = self.features.train_maps[0].nbytes * count
            stored = StoredTask(index, y, x.to(self.device), logits, None, [size] * len(self.seeds))
        else:
            stored = self._encode(index, y, logits, None if masks is None else masks[:, -count:])
        self.stored.append(stored)

    @property
    def _channels(self) -> int:
        return self.features.train_maps.shape[1]

    def _masks(self, order: torch.Tensor, head: Head) -> torch.Tensor | None:
        """(R, n, K) channels to keep of the last n samples of a task; None to keep all channels."""
        if self.sharc is None:
            return None
        is_known = self.sharc.theta is not None and self.sharc.importance == "absolute"
        if is_known and self.budget.unit != "nonzero":  # no more than these can fit
            keep = kept_channels(self._channels, self.sharc.theta)
            most = torch.full((order.shape[1],), keep)
            count, _ = self.budget.fitting(len(self.stored), most, self.samples_stored, self._left)
            order = order[:, -count:]
        height, width = self.features.train_maps.shape[-2:]
        x = self.views.pooled(order).to(self.device)
        y = self.features.train_labels[order].to(self.device)
        saliency = SALIENCIES.get(self.sharc.saliency)(head, x, y, height * width, self._noise).cpu()
        return kept_mask(saliency, self.sharc.theta, self.sharc.mass, self.sharc.importance)

    def _amounts(self, order: torch.Tensor, masks: torch.Tensor | None) -> list[torch.Tensor]:
        """Per replica what the last samples of a task keep, the last one first: see Budget.fitting."""
        if self.budget.unit == "nonzero":
            last = order if masks is None else order[:, -masks.shape[1] :]
            return [self._nonzero(r, o, None if masks is None else masks[r]) for r, o in enumerate(last)]
        kept = masks.sum(-1) if masks is not None else torch.full(order.shape, self._channels)
        return list(kept.flip(1))

    def _nonzero(self, replica: int, index: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Non-zero values in what is kept of each sample, the last first, until they exceed the budget.

        index: (n,) samples of the training set; mask: (n, K), or None for all channels.
        """
        counts, spent = [], 0
        available = self.budget.available(len(self.stored), self._left)
        for end in range(len(index), 0, -COUNTED):
            part = slice(max(0, end - COUNTED), end)
            each = (self.views.maps(replica, index[part]) != 0).sum((2, 3))
            counts.append((each if mask is None else each * mask[part]).sum(1).flip(0))
            spent += int(counts[-1].sum())
            if spent > available:
                break  # maps are read from disk: no more of them than it takes
        return torch.cat(counts)

    def _encode(
        self, index: torch.Tensor, y: torch.Tensor, logits: torch.Tensor | None, masks: torch.Tensor | None
    ) -> StoredTask:
        """Encode what is kept, write the whole maps to the AMs, and complete them if it is time."""
        sparse = []
        for r in range(len(self.seeds)):
            maps = self.views.maps(r, index[r])
            sparse.append(SparseMaps.encode(maps, None if masks is None else masks[r], self.storage))
            if self.sharc is not None:
                memory = self.sharc.associative[r]
                every = self.sharc.forget_every
                if every and self.stored and (len(self.stored) + 1) % every == 0:
                    memory.forget(self.sharc.forget_beta)
                memory.write(maps, y[r])
        stored = StoredTask(index, y, None, logits, sparse, [s.nbytes for s in sparse])
        if self.sharc is None:
            stored.x = torch.stack([pool(s.decode()) for s in sparse]).to(self.device)
        elif self.sharc.read == "at_store":
            self._complete(stored)
        return stored

    # --- reading ---------------------------------------------------------------------------------

    def begin_task(self) -> None:
        """Make the replay set of the coming task: complete what was stored of all earlier ones."""
        if not self.stored:
            return
        for stored in self.stored:
            if self.sharc is not None and self.sharc.read == "per_task":
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
        """Read the associative memories for one stored task; notes the recall error on the way.

        Read once, when stored, the completed maps are what is kept from then on, and what is counted.
        """
        completed, errors = [], []
        for r, memory in enumerate(self.sharc.associative):
            sparse = stored.sparse[r]
            mask = sparse.mask
            recalled = memory.read(sparse.decode(), mask, stored.y[r]).cpu()
            if self.sharc.read == "at_store":
                whole = SparseMaps.encode(recalled, None, self.storage)
                stored.sparse[r], stored.map_bytes[r] = whole, whole.nbytes
                recalled = whole.decode()  # what is replayed from now on: the error is that of these maps
            dropped = ~mask[:, :, None, None].expand_as(recalled)
            true = self.views.maps(r, stored.index[r]).float()
            error = (recalled - true)[dropped].square()
            errors.append(error.mean().item() if len(error) else 0.0)
            completed.append(pool(recalled))
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
        """Bytes stored per replica: values, scales, channel numbers and counts, labels and logits."""
        extra = sum(
            s.index.shape[1] * (LABEL_BYTES + (0 if s.logits is None else LOGIT_BYTES * s.logits.shape[-1]))
            for s in self.stored
        )
        return [extra + sum(s.map_bytes[r] for s in self.stored) for r in range(len(self.seeds))]

    def associative_bytes(self) -> list[int]:
        """Bytes of each replica's associative memory."""
        if self.sharc is None:
            return [0] * len(self.seeds)
        return [memory.state_bytes for memory in self.sharc.associative]

    def recall_mse(self) -> list[float | None]:
        """Mean squared error over the dropped entries at the latest reading, averaged over tasks."""
        read = [s.recall_errors for s in self.stored if s.recall_errors is not None]
        if not read:
            return [None] * len(self.seeds)
        return torch.tensor(read, dtype=torch.float64).mean(0).tolist()
