"""A memory that is filled by reservoir sampling from the first minibatch on, as mammoth fills its buffer."""

import torch

from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import MinibatchSampler, generator
from sharc_core.heads import Batch
from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.representations.encoding import SparseMaps, kept_mask, sample_bytes
from sharc_core.selection.filling import Reservoir

DRAWN = 256  # minibatches drawn at a time, once the buffer is full


class ReservoirMemory(EpisodicMemory):
    """One buffer for the whole stream: every sample visited so far is equally likely to be in it.

    Samples are admitted after the step in which they were visited, and replayed from the next one on,
    those of the current task included. What they keep is chosen, and their logits are taken, at the visit.
    With SHARC the AM learns the samples that a task has left in the buffer when the task ends; until then
    the channels that they dropped are zero. What later samples push out the AM cannot unlearn.

    It has no tasks: `tasks` raises UserError.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        replicas, size = len(self.seeds), self._capacity()
        channels = self.features.train_maps.shape[1]
        self._reservoirs = [Reservoir(size, generator(s, "reservoir")) for s in self.seeds]
        self._index = torch.zeros(replicas, size, dtype=torch.int64)
        self._masks_held = torch.ones(replicas, size, channels, dtype=torch.bool)
        self._learnt = torch.zeros(replicas, size, dtype=torch.bool)
        dtype = self.features.train_pooled.dtype
        self._x = torch.zeros(replicas, size, channels, dtype=dtype, device=self.device)
        self._y = torch.zeros(replicas, size, dtype=torch.int64, device=self.device)
        self._logits_held: torch.Tensor | None = None
        self._pending: tuple | None = None
        self._tasks_stored = 0
        self._errors: list[float | None] = [None] * replicas

    def _capacity(self) -> int:
        keep = self._channels
        if self.sharc is not None:
            saliency = torch.arange(keep, dtype=torch.float32)[None]
            keep = int(kept_mask(saliency, self.sharc.theta, None, self.sharc.importance).sum())
        size = self.budget.capacity(keep)
        self._sample_bytes = sample_bytes(
            self.budget.shape, keep, self.budget.logits, self.storing.storage, self.budget.counted
        )
        if not size:
            raise UserError(f"a buffer of {self.budget.buffer} holds no sample: raise the buffer")
        return size

    # --- while a task is being learnt ------------------------------------------------------------

    def visit(self, index, batch, head):
        """Choose slots for the minibatch, and record what is kept of the samples that get one."""
        slots = [reservoir.slots(index.shape[1]) for reservoir in self._reservoirs]
        # at every visit, so that what a random saliency draws does not depend on other replicas' slots
        saliency = None if self.sharc is None else self._saliency(batch.x, batch.y, head)
        if all(slot < 0 for row in slots for slot in row):
            self._pending = None
            return
        masks = logits = None
        if saliency is not None:
            masks = kept_mask(saliency, self.sharc.theta, None, self.sharc.importance)
        if self.storing.keep_logits:
            logits = head.logits(batch.x).clone()
        self._pending = (slots, index, batch, masks, logits)

    def admit(self):
        """Put the last minibatch's samples into their slots, one after the other."""
        if self._pending is None:
            return
        slots, index, batch, masks, logits = self._pending
        self._pending = None
        for r, row in enumerate(slots):
            taken = {slot: position for position, slot in enumerate(row) if slot >= 0}  # the last one stays
            if not taken:
                continue
            at, of = torch.tensor(list(taken)), torch.tensor(list(taken.values()))
            self._index[r, at] = index[r, of]
            self._learnt[r, at] = False
            if masks is not None:
                self._masks_held[r, at] = masks[r, of]
            place, source = at.to(self.device), of.to(self.device)
            self._y[r, place] = batch.y[r, source]
            self._x[r, place] = self._pooled(r, at, batch.x[r, source]).to(self.device)
            if logits is not None:
                if self._logits_held is None:
                    self._logits_held = logits.new_zeros(*self._y.shape, logits.shape[2])
                self._logits_held[r, place] = logits[r, source]
        held = self.samples_stored
        if self._replay is None or self._replay.x.shape[1] != held:
            logits = None if self._logits_held is None else self._logits_held[:, :held]
            self._replay_set(Batch(self._x[:, :held], self._y[:, :held], logits))

    def _pooled(self, r: int, at: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Pooled vectors of slots as they are replayed until the AM completes them."""
        if self.sharc is None and self.storing.storage == "float16":
            return x
        return pool(self._encoded(r, at).decode())

    def _encoded(self, r: int, at: torch.Tensor) -> SparseMaps:
        maps = self.views.maps(r, self._index[r, at])
        mask = None if self.sharc is None else self._masks_held[r, at]
        return SparseMaps.encode(maps, mask, self.storing.storage)

    # --- between tasks ---------------------------------------------------------------------------

    def store(self, order, head):
        """The task is over: the AM learns what it has left in the buffer."""
        if self.sharc is not None:
            for r, memory in enumerate(self.sharc.associative):
                new = (~self._learnt[r, : self.samples_stored]).nonzero().flatten()
                every = self.sharc.forget_every
                if every and self._tasks_stored and (self._tasks_stored + 1) % every == 0:
                    memory.forget(self.sharc.forget_beta)
                if len(new):
                    index = self._index[r, new]
                    memory.write(self.views.maps(r, index), self.features.train_labels[index])
                self._learnt[r, new] = True
        self._tasks_stored += 1

    def begin_task(self):
        """Complete every sample that the AM has learnt."""
        if self.sharc is None:
            return
        for r, memory in enumerate(self.sharc.associative):
            at = self._learnt[r].nonzero().flatten()
            if not len(at):
                continue
            sparse, index = self._encoded(r, at), self._index[r, at]
            mask = sparse.mask
            full = memory.read(sparse.decode(), mask, self.features.train_labels[index]).cpu()
            self._errors[r] = self._recall_error(r, index, full, mask)
            self._x[r, at.to(self.device)] = pool(full).to(self.device)

    # --- reading and accounting ------------------------------------------------------------------

    def _sampler(self, source: torch.Generator, population: int, size: int) -> MinibatchSampler:
        is_full = population == self._index.shape[1]
        return MinibatchSampler(source, population, size, block=DRAWN if is_full else 1)

    def tasks(self):
        """A reservoir does not know its tasks."""
        raise UserError("memory.selection reservoir has no tasks to replay whole: use selection last")

    @property
    def samples_stored(self):
        """Samples per replica."""
        reservoir = self._reservoirs[0]
        return min(reservoir.seen, reservoir.capacity)

    def episodic_bytes(self):
        """Bytes stored per replica: values, scales, channel numbers, labels and logits."""
        return [self.samples_stored * self._sample_bytes] * len(self.seeds)

    def recall_mse(self):
        """Mean squared error over the dropped entries at the latest reading of what the AM had learnt."""
        return list(self._errors)
