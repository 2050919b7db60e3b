"""What SHARC's memory learns, forgets and completes at the end of a task, one replica at a time."""

from dataclasses import dataclass

import torch

from sharc_core.associative import AssociativeMemory
from sharc_core.features.views import ReplicaViews
from sharc_core.representations.encoding import SparseMaps


@dataclass(frozen=True)
class SharcSettings:
    """How the SHARC variant stores and recalls.

    associative: one associative memory (AM) per replica.
    theta: share of the channels to drop, or mass: share of the saliency to keep.
    importance: what of the saliency counts, see encoding.kept_mask.
    saliency_at: "task_end" takes saliency with the head as it is when the task has been learnt, "visit" with
    the head just before a sample is learnt from (the published code).
    read: "per_task" completes all samples at each task's start (the paper's algorithm 1). "at_store"
    completes a sample once, when its task has been written, and keeps it completed; "per_batch" completes a
    training batch right after the AM learnt that batch alone, and keeps it completed (the published code).
    complete: "all" stored samples, or those of the "last_batches" of a task, as many as hold buffer / tasks
    samples (the published code): the AM learns every map of those batches, stored or not, and dropped
    channels of older samples stay zero.
    forget_every: the AM forgets by forget_beta before every so many writes; None: never. forget_unit says
    what one write is: the maps of a "task" (nothing is forgotten before the first), or of a training
    "batch" (the published code).
    """

    associative: list[AssociativeMemory]
    theta: float | None = None
    mass: float | None = None
    saliency: str = "gradient"
    importance: str = "absolute"
    saliency_at: str = "task_end"
    read: str = "per_task"
    complete: str = "all"
    forget_every: int | None = None
    forget_unit: str = "task"
    forget_beta: float = 0.1

    @property
    def keeps_completed(self) -> bool:
        """Whether a sample's completed map takes the place of its masked one."""
        return self.read != "per_task"

    @property
    def writes_batches(self) -> bool:
        """Whether the AM learns a task's maps one training batch at a time."""
        return self.read == "per_batch" or self.forget_unit == "batch"

    def completed_from(self, samples: int, batch_size: int, slots: int) -> int:
        """Position from which a task's samples are completed.

        samples: of the task, visited in batches of batch_size. slots: the task's share of the buffer.
        """
        if self.complete == "all":
            return 0
        batches = -(-samples // batch_size)
        return max(0, batches - -(-slots // batch_size)) * batch_size


@dataclass
class TaskWrite:
    """What one replica's AM is written at a task's end: see `run`.

    order (N,): training indices of the whole task as visited; labels (N,) theirs. masks (n, K): channels
    kept of the last n samples. stored (m,): positions in `order` of the samples that are stored. first: the
    position from which samples are completed. tasks: how many were stored before. writes: batches written
    before, where one write is a batch.
    """

    settings: SharcSettings
    views: ReplicaViews
    replica: int
    order: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor
    stored: torch.Tensor
    first: int
    batch_size: int
    tasks: int
    writes: int
    storage: str

    def run(self) -> dict[int, torch.Tensor]:
        """Forget and write; completed maps (K, h, w) by position where `read` is per_batch, else none."""
        s, memory = self.settings, self.settings.associative[self.replica]
        completed: dict[int, torch.Tensor] = {}
        if s.forget_unit == "task" and s.forget_every and self.tasks:
            self._forget_at(memory, self.tasks + 1)
        for chunk in self._chunks():
            self.writes += 1
            if s.forget_unit == "batch" and s.forget_every:
                self._forget_at(memory, self.writes)
            maps, labels = self.views.maps(self.replica, self.order[chunk]), self.labels[chunk]
            memory.write(maps, labels)
            if s.read == "per_batch":
                mask = self.masks[chunk - (len(self.order) - len(self.masks))]
                cues = SparseMaps.encode(maps, mask, self.storage).decode()
                full = memory.read(cues, mask, labels).cpu()
                completed |= dict(zip(chunk.tolist(), full, strict=True))
        return completed

    def _forget_at(self, memory: AssociativeMemory, number: int) -> None:
        if number % self.settings.forget_every == 0:
            memory.forget(self.settings.forget_beta)

    def _chunks(self) -> list[torch.Tensor]:
        """Positions that are written, in the order of the visit, as they are written together."""
        written = self.stored
        if self.settings.complete != "all":
            written = torch.arange(self.first, len(self.order))
        if not self.settings.writes_batches:
            return [written]
        batch = written // self.batch_size
        return [written[batch == number] for number in batch.unique()]
