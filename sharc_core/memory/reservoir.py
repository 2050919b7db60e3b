"""One buffer for the whole stream that is filled from the first minibatch on, as mammoth fills its buffer."""

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.pooling import pool
from sharc_core.common.seeds import generator
from sharc_core.features.views import DriftingFeatures, TrainingFeatures
from sharc_core.heads import Batch
from sharc_core.memory.budget import Budget
from sharc_core.memory.byte_count import label_and_logit_bytes, sample_bytes
from sharc_core.memory.encoding import Encoder
from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.memory.options import SharcSettings, Storing
from sharc_core.memory.replay import BLOCK
from sharc_core.representations import Stored
from sharc_core.selection import SELECTIONS


class ReservoirMemory(EpisodicMemory):
    """One buffer for all tasks, whose slots a stream selection assigns while the head trains.

    Samples are admitted after the step in which they were visited, and replayed from the next step on, those
    of the current task included. Which channels they keep is decided, and their logits are taken, at the
    visit. With SHARC the AM learns the samples that a task has left in the buffer when the task ends; until
    then the channels that they dropped are zero. The AM cannot unlearn samples that later ones replace.
    Encoded images differ in size: if the budget counts their bytes, the number of slots varies, too.
    """

    def __init__(
        self,
        features: TrainingFeatures | DriftingFeatures,
        seeds: list[int],
        budget: Budget,
        sharc: SharcSettings | None = None,
        storing: Storing | None = None,
        device: torch.device | str = "cpu",
    ):
        """budget: what may be stored. For the other arguments see EpisodicMemory.

        Raises UserError if the budget holds no sample.
        """
        super().__init__(features, seeds, sharc, storing, device)
        self.budget = budget
        self.encoder = Encoder(features, seeds, self.storing)
        replicas, channels = len(seeds), features.train_maps.shape[1]
        size = self._capacity(channels)
        selection = SELECTIONS.get(self.storing.selection)
        self._slots = [selection(size, generator(s, selection.name)) for s in seeds]
        self._held = 0  # samples per replica, once they have been admitted
        self._index = torch.zeros(replicas, size, dtype=torch.int64)
        self._masks = torch.ones(replicas, size, channels, dtype=torch.bool)
        self._learnt = torch.zeros(replicas, size, dtype=torch.bool)
        dtype = features.train_pooled.dtype
        self._x = torch.zeros(replicas, size, channels, dtype=dtype, device=self.device)
        self._y = torch.zeros(replicas, size, dtype=torch.int64, device=self.device)
        self._logits: torch.Tensor | None = None
        self._pending: tuple | None = None
        self._tasks_stored = 0
        self._errors: list[float | None] = [None] * replicas

    def _capacity(self, channels: int) -> int:
        """Return how many samples fit, at most, and note what each of them takes."""
        keep = channels
        if self.budget.codec is not None:
            keep = min(int(self._sizes(r).min()) for r in range(len(self.seeds)))
        if self.sharc is not None:
            keep = int(self.sharc.kept(torch.arange(keep, dtype=torch.float32)[None]).sum())
        size = self.budget.capacity(keep)
        self._sample_bytes = sample_bytes(
            self.encoder.representations[0], keep, self.budget.logits, self.budget.counted
        )
        if not size:
            raise UserError(f"a buffer of {self.budget.buffer} holds no sample: raise the buffer")
        return size

    # --- while a task is being learnt ------------------------------------------------------------

    def visit(self, index, batch, head):
        """Choose slots for the minibatch, and record what is kept of the samples that get one."""
        slots, moved, held = self._placed(index)
        # at every visit, so that the draws of a random saliency do not depend on other replicas' slots
        saliency = None if self.sharc is None else self._saliency(batch.x, batch.y, head)
        if all(slot < 0 for row in slots for slot in row) and held == self._held:
            self._pending = None
            return
        masks = None if self.sharc is None or saliency is None else self.sharc.kept(saliency)
        logits = head.logits(batch.x).clone() if self.storing.keep_logits else None
        self._pending = (slots, moved, held, index, batch, masks, logits)

    def _placed(self, index: torch.Tensor) -> tuple[list[list[int]], list[dict[int, int]], int]:
        """Return the slots of the training samples index (R, B), -1 for none.

        The second value are the held samples to move before that, from slot to slot; the third is how many
        are held afterwards. Raises UserError if files do not fit, or if replicas hold different numbers.
        """
        if self.budget.codec is None:
            slots = [selection.slots(index.shape[1]) for selection in self._slots]
            return slots, [{}] * len(slots), min(self._slots[0].seen, self._slots[0].capacity)
        placements = []
        for r, selection in enumerate(self._slots):
            costs = self.budget.costs(self._sizes(r)[index[r]])
            placements.append(selection.placed(costs.tolist(), self.budget.for_samples))
        held = {placement.held for placement in placements}
        if len(held) > 1:
            raise UserError("each seed would keep another number of samples: run them one by one")
        if held == {0}:
            raise UserError(
                f"a buffer of {self.budget.buffer} holds no sample, of which one takes {max(costs):,} bytes: "
                "raise the buffer"
            )
        return [p.slots for p in placements], [p.moved for p in placements], held.pop()

    def _sizes(self, r: int) -> torch.Tensor:
        """Return the bytes of all files of a replica's encoded images, (N,)."""
        return self.encoder.views.encoded(r, self.encoder.representations[r].codec).sizes

    def admit(self):
        """Put the samples of the last minibatch into their slots, one after the other."""
        if self._pending is None:
            return
        slots, moved, held, index, batch, masks, logits = self._pending
        self._pending = None
        for r, row in enumerate(slots):
            self._move(r, moved[r])
            taken = {slot: position for position, slot in enumerate(row) if slot >= 0}  # the last one stays
            if not taken:
                continue
            at, of = torch.tensor(list(taken)), torch.tensor(list(taken.values()))
            self._index[r, at] = index[r, of]
            self._learnt[r, at] = False
            if masks is not None:
                self._masks[r, at] = masks[r, of]
            place, source = at.to(self.device), of.to(self.device)
            self._y[r, place] = batch.y[r, source]
            self._x[r, place] = self._pooled(r, at, batch.x[r, source]).to(self.device)
            if logits is not None:
                if self._logits is None:
                    self._logits = logits.new_zeros(*self._y.shape, logits.shape[2])
                self._logits[r, place] = logits[r, source]
        self._held = held
        if self.replay.batch is None or self.replay.batch.x.shape[1] != held:
            logits = None if self._logits is None else self._logits[:, :held]
            # while the buffer grows, no draws ahead: each would be of fewer samples than there are then
            block = BLOCK if held == self._index.shape[1] else 1
            self.replay.replace(Batch(self._x[:, :held], self._y[:, :held], logits), block)

    def _move(self, r: int, moved: dict[int, int]) -> None:
        """Copy a replica's samples from slot to slot."""
        if moved:
            old, new = torch.tensor(list(moved)), torch.tensor(list(moved.values()))
            self._index[r, new] = self._index[r, old]
            source, place = old.to(self.device), new.to(self.device)
            for values in (self._x, self._y, self._logits):
                if values is not None:
                    values[r, place] = values[r, source]

    def _pooled(self, r: int, at: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the vectors (n, K) that slots `at` (n,) replay until the AM completes them.

        x (n, K): pooled vectors of their samples.
        """
        if self.sharc is None and self.encoder.is_cache_format:
            return x
        return self._encoded(r, at).pooled()

    def _encoded(self, r: int, at: torch.Tensor) -> Stored:
        """Return the samples in slots `at` (n,) of a replica as they are stored."""
        mask = None if self.sharc is None else self._masks[r, at]
        return self.encoder.encode(r, self._index[r, at], mask)

    # --- between tasks ---------------------------------------------------------------------------

    def store(self, order, head):
        """Let the AM learn what the task has left in the buffer."""
        if self.sharc is not None:
            for r, memory in enumerate(self.sharc.associative):
                new = (~self._learnt[r, : self.samples_stored]).nonzero().flatten()
                every = self.sharc.forget_every
                if every and self._tasks_stored and (self._tasks_stored + 1) % every == 0:
                    memory.forget(self.sharc.forget_beta)
                if len(new):
                    index = self._index[r, new]
                    memory.write_rows(self.encoder.rows(r, index), self.features.train_labels[index])
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
            self._errors[r] = self.encoder.recall_error(r, index, full, mask)
            self._x[r, at.to(self.device)] = pool(full).to(self.device)

    # --- replay and accounting -------------------------------------------------------------------

    def tasks(self):
        """Raise UserError: the samples of one buffer are of all tasks."""
        raise UserError(
            f"memory.selection {self.storing.selection} has no tasks to replay: use selection last"
        )

    @property
    def samples_stored(self):
        """Samples per replica."""
        return self._held

    def episodic_bytes(self):
        """Return the bytes stored per replica, which are the planned ones of each sample."""
        if self.encoder.representations[0].codec is not None:
            files = [int(self._sizes(r)[row[: self._held]].sum()) for r, row in enumerate(self._index)]
            return [total + self._held * label_and_logit_bytes(self.budget.logits) for total in files]
        held = self.encoder.shared_bytes + self.samples_stored * self._sample_bytes
        return [held] * len(self.seeds)

    def recall_mse(self):
        """Return the mean squared error over dropped entries at the latest completion."""
        return list(self._errors)
