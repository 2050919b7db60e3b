"""Episodic memory: stores samples of every task, sparse or full, and hands them back for replay.

A method asks for minibatches or for a past task whole, and cannot tell how they were kept. SHARC is
this class with a saliency and an associative memory; plain replay is the same class with neither.
"""

from dataclasses import dataclass

import torch

from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool, widened
from sharc_core.common.seeds import MinibatchSampler, generator
from sharc_core.features.views import TrainingFeatures, replicas_of
from sharc_core.heads import Batch, Head
from sharc_core.memory.budget import Budget
from sharc_core.memory.completion import SharcSettings, TaskWrite
from sharc_core.representations.encoding import LABEL_BYTES, LOGIT_BYTES, SparseMaps, kept_channels, kept_mask
from sharc_core.saliency import SALIENCIES
from sharc_core.selection.filling import whole_batches

COUNTED = 256  # maps whose non-zero values are counted at a time


@dataclass(frozen=True)
class Storing:
    """How samples are stored, with SHARC and without.

    storage: type of the stored values, see encoding.DTYPES. selection: which samples of a task are kept:
    its "last", what the published code's whole "batches" leave (filling.whole_batches), or a "reservoir"
    over the whole stream (sharc_core.memory.reservoir). keep_logits: the head's logits are stored too.
    logits_at: "task_end" or "visit", as for SharcSettings.saliency_at. batch_size: of training. views: see
    sharc_core.features.views.
    """

    storage: str = "float16"
    selection: str = "last"
    keep_logits: bool = False
    logits_at: str = "task_end"
    batch_size: int = 10
    views: int = 1


@dataclass
class StoredTask:
    """One task's samples for all replicas. index (R, n) into the training set; y (R, n).

    sparse: R SparseMaps of what is kept, or None when whole maps are kept as the feature cache has them
    (the pooled vector then says it all). x: (R, n, D) pooled vectors as they are replayed now; logits
    (R, n, C) or None. completes (R, n) bool: samples that the AM completes; in the others dropped channels
    stay zero.
    """

    index: torch.Tensor
    y: torch.Tensor
    x: torch.Tensor | None
    logits: torch.Tensor | None
    sparse: list[SparseMaps] | None
    map_bytes: list[int]
    completes: torch.Tensor | None = None
    recall_errors: list[float] | None = None


class EpisodicMemory:
    """All replicas' memories.

    The learner calls `begin_task`, for every pass over the task `begin_pass`, for every step `visit` before
    it and `admit` after it, and `store` at the task's end; methods call `sample` and `tasks`.
    """

    def __init__(
        self,
        features: TrainingFeatures,
        seeds: list[int],
        budget: Budget | None,
        sharc: SharcSettings | None = None,
        storing: Storing | None = None,
        device: torch.device | str = "cpu",
    ):
        """budget: what may be kept; None: nothing is ever stored. sharc: None for plain replay."""
        self.storing = storing or Storing()
        self.features = features
        self.views = None
        if budget is not None:
            self.views = replicas_of(features, seeds, self.storing.views, self.storing.batch_size)
        self.seeds = seeds
        self.budget = budget
        self.sharc = sharc
        self.device = torch.device(device)
        self.stored: list[StoredTask] = []
        self._left = 0
        self._writes = [0] * len(seeds)
        self._noise = [generator(s, "saliency") for s in seeds]
        self._replay: Batch | None = None
        self._samplers: dict[int, list[MinibatchSampler]] = {}
        self._queues: dict[int, list[torch.Tensor]] = {}
        self._draws = [generator(s, "replay") for s in seeds]
        self._visited: dict[str, list[torch.Tensor]] = {"saliency": [], "logits": []}

    # --- while a task is being learnt ------------------------------------------------------------

    def begin_pass(self) -> None:
        """A pass over the task begins; what was recorded in an earlier pass is dropped."""
        for recorded in self._visited.values():
            recorded.clear()

    def visit(self, index: torch.Tensor, batch: Batch, head: Head) -> None:
        """A step is about to be taken on samples index (R, B): note what is recorded at the visit."""
        if self.sharc is not None and self.sharc.saliency_at == "visit":
            self._visited["saliency"].append(self._saliency(batch.x, batch.y, head))
        if self.storing.keep_logits and self.storing.logits_at == "visit":
            self._visited["logits"].append(head.logits(batch.x).clone())

    def admit(self) -> None:
        """The step on the samples of the last `visit` has been taken."""

    def _saliency(self, x: torch.Tensor, y: torch.Tensor, head: Head) -> torch.Tensor:
        height, width = self.features.train_maps.shape[-2:]
        return SALIENCIES.get(self.sharc.saliency)(head, x, y, height * width, self._noise).cpu()

    def _at_visit(self, what: str, samples: int) -> torch.Tensor | None:
        """(R, samples, ...) as recorded in the last pass over the task; None where nothing was."""
        recorded = self._visited[what]
        return torch.cat(recorded, 1)[:, -samples:] if recorded else None

    # --- writing ---------------------------------------------------------------------------------

    def store(self, order: torch.Tensor, head: Head) -> None:
        """Keep samples of the task that has just been learnt, as many as the budget holds.

        order: (R, N_t) training indices as the replicas visited them. head: gives saliency and logits.
        Raises UserError when not one sample fits, or when replicas would keep different numbers of
        samples (Cell.has_ragged_tasks: run the seeds one by one, as run_cell does).
        """
        first = self._completed_from(order.shape[1])
        masks = self._masks(order, head, first)
        chosen = [self._chosen(r, o, None if masks is None else masks[r], first) for r, o in enumerate(order)]
        if len({len(positions) for positions, _ in chosen}) > 1:
            raise UserError("each seed would keep another number of samples: run them one by one")
        self._left = chosen[0][1]
        positions = torch.stack([positions for positions, _ in chosen])
        index = order.gather(1, positions)
        y = self.features.train_labels[index]
        x = self.views.pooled(index)
        logits = self._logits(order, positions, x, head)
        if self.sharc is None and self.storing.storage == "float16":
            size = self.features.train_maps[0].nbytes * index.shape[1]
            stored = StoredTask(index, y, x.to(self.device), logits, None, [size] * len(self.seeds))
        else:
            stored = self._encode(order, positions, masks, first, StoredTask(index, y, None, logits, [], []))
        self.stored.append(stored)

    @property
    def _channels(self) -> int:
        return self.features.train_maps.shape[1]

    def _completed_from(self, samples: int) -> int:
        """Position from which a task's samples are completed."""
        if self.sharc is None or self.sharc.complete == "all":
            return 0
        slots = self.budget.buffer // self.budget.tasks
        return self.sharc.completed_from(samples, self.storing.batch_size, slots)

    def _logits(
        self, order: torch.Tensor, positions: torch.Tensor, x: torch.Tensor, head: Head
    ) -> torch.Tensor | None:
        if not self.storing.keep_logits:
            return None
        visited = self._at_visit("logits", order.shape[1])
        if visited is None:
            return head.logits(x.to(self.device))
        at = positions.to(visited.device).unsqueeze(2).expand(-1, -1, visited.shape[2])
        return visited.gather(1, at)

    def _masks(self, order: torch.Tensor, head: Head, first: int) -> torch.Tensor | None:
        """(R, n, K) channels to keep of the last n samples of a task; None to keep all channels."""
        if self.sharc is None:
            return None
        saliency = self._at_visit("saliency", order.shape[1])
        if saliency is None:
            last = order[:, -self._candidates(order.shape[1], first) :]
            x = self.views.pooled(last).to(self.device)
            saliency = self._saliency(x, self.features.train_labels[last].to(self.device), head)
        return kept_mask(saliency, self.sharc.theta, self.sharc.mass, self.sharc.importance)

    def _candidates(self, samples: int, first: int) -> int:
        """How many of a task's last samples may be stored or learnt by the AM."""
        is_known = self.sharc.theta is not None and self.sharc.importance == "absolute"
        if self.storing.selection != "last" or not is_known or self.budget.unit == "nonzero":
            return samples
        most = torch.full((samples,), kept_channels(self._channels, self.sharc.theta))
        completed = torch.arange(samples).flip(0) >= first
        task = len(self.stored)
        count, _ = self.budget.fitting(task, most, self.samples_stored, self._left, completed)
        return count if self.sharc.complete == "all" else max(count, samples - first)

    def _chosen(
        self, replica: int, order: torch.Tensor, mask: torch.Tensor | None, first: int
    ) -> tuple[torch.Tensor, int]:
        """Positions (m,) in order (N,) of the samples to store, in memory order, and what they leave.

        mask: (n, K) of the last n samples, or None for all channels.
        """
        task, count = len(self.stored), len(order) if mask is None else len(mask)
        completed = torch.arange(len(order) - count, len(order)).flip(0) >= first
        if self.storing.selection == "batches":
            kept = self._kept(replica, order, mask, whole=True)
            costs = self.budget.costs(kept, completed[: len(kept)]).flip(0).tolist()
            allowance = self.budget.available(task, self._left)
            held = whole_batches(costs, self.storing.batch_size, allowance)
            return torch.tensor(held), allowance - sum(costs[position] for position in held)
        kept = self._kept(replica, order[len(order) - count :], mask)
        number, left = self.budget.fitting(
            task, kept, self.samples_stored, self._left, completed[: len(kept)]
        )
        return torch.arange(len(order) - number, len(order)), left

    def _kept(
        self, replica: int, index: torch.Tensor, mask: torch.Tensor | None, whole: bool = False
    ) -> torch.Tensor:
        """What samples index (n,) keep, the last one first: channels, or values that are not zero.

        Values are counted until they exceed the budget, unless `whole`. mask: (n, K), None for all channels.
        """
        if self.budget.unit != "nonzero":
            kept = torch.full((len(index),), self._channels) if mask is None else mask.sum(-1)
            return kept.flip(0)
        counts, spent = [], 0
        available = self.budget.available(len(self.stored), self._left)
        for end in range(len(index), 0, -COUNTED):
            part = slice(max(0, end - COUNTED), end)
            each = self.views.nonzero(replica, index[part])
            counts.append((each if mask is None else each * mask[part]).sum(1).flip(0))
            spent += int(counts[-1].sum())
            if spent > available and not whole:
                break  # maps are read from disk: no more of them than it takes
        return torch.cat(counts)

    def _encode(
        self,
        order: torch.Tensor,
        positions: torch.Tensor,
        masks: torch.Tensor | None,
        first: int,
        stored: StoredTask,
    ) -> StoredTask:
        """Encode what is kept, write to the AMs, and complete what is completed when it is stored."""
        for r, index in enumerate(stored.index):
            kept = None if masks is None else masks[r, positions[r] - (order.shape[1] - masks.shape[1])]
            sparse = SparseMaps.encode(self.views.maps(r, index), kept, self.storing.storage)
            stored.sparse.append(sparse)
            stored.map_bytes.append(sparse.nbytes)
        if self.sharc is None:
            stored.x = torch.stack([pool(s.decode()) for s in stored.sparse]).to(self.device)
            return stored
        stored.completes = positions >= first
        completed = [self._write(r, order[r], positions[r], masks[r], first) for r in range(len(order))]
        if self.sharc.read == "at_store":
            self._complete(stored)
        elif self.sharc.read == "per_batch":
            self._take_over(stored, positions, completed)
        return stored

    def _write(
        self, r: int, order: torch.Tensor, positions: torch.Tensor, masks: torch.Tensor, first: int
    ) -> dict[int, torch.Tensor]:
        """Write one replica's AM; maps that it completed on the way, by position."""
        write = TaskWrite(
            self.sharc,
            self.views,
            r,
            order,
            self.features.train_labels[order],
            masks,
            positions,
            first,
            self.storing.batch_size,
            len(self.stored),
            self._writes[r],
            self.storing.storage,
        )
        completed = write.run()
        self._writes[r] = write.writes
        return completed

    # --- reading ---------------------------------------------------------------------------------

    def begin_task(self) -> None:
        """Make the replay set of the coming task: complete what was stored of all earlier ones."""
        if not self.stored:
            return
        for stored in self.stored:
            if self.sharc is not None and self.sharc.read == "per_task":
                self._complete(stored)
        logits = None
        if self.storing.keep_logits:
            logits = torch.cat([s.logits for s in self.stored], 1)
        x, y = torch.cat([s.x for s in self.stored], 1), torch.cat([s.y for s in self.stored], 1)
        self._replay_set(Batch(x, y.to(self.device), logits))

    def _replay_set(self, replay: Batch) -> None:
        """What minibatches are drawn from, from now on."""
        self._replay = replay
        self._samplers.clear()
        self._queues.clear()

    def _complete(self, stored: StoredTask) -> None:
        """Read the associative memories for one stored task."""
        maps = []
        for r, memory in enumerate(self.sharc.associative):
            sparse, rows = stored.sparse[r], stored.completes[r]
            full, mask = sparse.decode(), sparse.mask
            if bool(rows.all()):
                full = memory.read(full, mask, stored.y[r]).cpu()
            elif bool(rows.any()):
                full[rows] = memory.read(full[rows], mask[rows], stored.y[r][rows]).cpu()
            maps.append(full)
        self._replay_from(stored, maps)

    def _take_over(
        self, stored: StoredTask, positions: torch.Tensor, completed: list[dict[int, torch.Tensor]]
    ) -> None:
        """Replay the completed maps (K, h, w), given by replica and position, of one stored task."""
        maps = []
        for r, by_position in enumerate(completed):
            full = stored.sparse[r].decode()
            for row, position in enumerate(positions[r].tolist()):
                full[row] = by_position.get(position, full[row])
            maps.append(full)
        self._replay_from(stored, maps)

    def _replay_from(self, stored: StoredTask, maps: list[torch.Tensor]) -> None:
        """Replay these maps (n, K, h, w) from now on; notes the recall error on the way.

        Completed when stored, the completed maps are what is kept from then on, and what is counted.
        """
        pooled, errors = [], []
        for r, recalled in enumerate(maps):
            mask = stored.sparse[r].mask
            if self.sharc.keeps_completed:
                kept = mask | stored.completes[r][:, None]
                sparse = SparseMaps.encode(recalled, kept, self.storing.storage)
                stored.sparse[r], stored.map_bytes[r] = sparse, sparse.nbytes
                recalled = sparse.decode()  # what is replayed from now on: the error is that of these maps
            errors.append(self._recall_error(r, stored.index[r], recalled, mask))
            pooled.append(pool(recalled))
        stored.x = torch.stack(pooled).to(self.device)
        stored.recall_errors = errors

    def _recall_error(self, r: int, index: torch.Tensor, maps: torch.Tensor, mask: torch.Tensor) -> float:
        """Mean squared error of maps (n, K, h, w) over the entries that mask (n, K) dropped; 0 for none."""
        dropped = ~mask[:, :, None, None].expand_as(maps)
        error = (maps - widened(self.views.maps(r, index)))[dropped].square()
        return error.mean().item() if len(error) else 0.0

    def __bool__(self) -> bool:
        return self._replay is not None

    def sample(self, size: int) -> Batch:
        """A minibatch of `size` distinct stored samples, drawn uniformly, each replica its own."""
        population = self._replay.x.shape[1]
        if size not in self._samplers:
            self._samplers[size] = [self._sampler(g, population, size) for g in self._draws]
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

    def _sampler(self, source: torch.Generator, population: int, size: int) -> MinibatchSampler:
        return MinibatchSampler(source, population, size)

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
