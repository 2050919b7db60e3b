"""SHARC at the end of a task: what the associative memory (AM) learns, forgets and completes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from sharc_core.associative.base import AssociativeMemory, Call
from sharc_core.associative.rows import Rows
from sharc_core.common.deferred import torch
from sharc_core.common.pooling import pool
from sharc_core.memory.encoding import Encoder
from sharc_core.memory.options import SharcSettings
from sharc_core.memory.picked import PickedSamples
from sharc_core.memory.stored_task import StoredTask

Written = tuple[AssociativeMemory, Rows, torch.Tensor]  # an AM, and maps and labels to be written to it
Replayed = tuple[torch.Tensor, float]  # pooled vectors, recall error


@dataclass
class TaskWrite:
    """What one replica's AM is written at the end of a task, see `run`.

    order (N,): training indices of all samples of the task as visited; labels (N,): theirs. masks (n, K):
    channels kept of the last n samples. stored (m,): positions in `order` of the samples that are stored.
    first: the position from which samples are completed. tasks: how many were stored before. writes: batches
    written before, if one write is a batch.
    """

    settings: SharcSettings
    encoder: Encoder
    replica: int
    order: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor
    stored: torch.Tensor
    first: int
    batch_size: int
    tasks: int
    writes: int

    def run(self, completed: dict[int, torch.Tensor]) -> Iterator[Written]:
        """Forget; yield what is to be written before the next item is taken; read if `read` is per_batch.

        completed: takes the completed maps (K, h, w), by position, if `read` is per_batch.
        """
        s, memory = self.settings, self.settings.associative[self.replica]
        if s.forget_unit == "task" and self.tasks:
            self._forget_at(self.tasks + 1)
        for chunk in self._chunks():
            self.writes += 1
            if s.forget_unit == "batch":
                self._forget_at(self.writes)
            rows, labels = self.encoder.rows(self.replica, self.order[chunk]), self.labels[chunk]
            yield memory, rows, labels
            if s.read == "per_batch":
                maps, mask = rows[:], self.masks[chunk - (len(self.order) - len(self.masks))]
                cues = self.encoder.representations[self.replica].encode(maps, mask).decode()
                full = memory.read(cues, mask, labels).cpu()
                completed.update(zip(chunk.tolist(), full, strict=True))

    def _forget_at(self, number: int) -> None:
        if self.settings.forget_every and number % self.settings.forget_every == 0:
            self.settings.associative[self.replica].forget(self.settings.forget_beta)

    def _chunks(self) -> list[torch.Tensor]:
        """Positions that are written, in the order of the visit, as they are written together."""
        written = self.stored
        if self.settings.complete != "all":
            written = torch.arange(self.first, len(self.order))
        if not self.settings.writes_batches:
            return [written]
        batch = written // self.batch_size
        return [written[batch == number] for number in batch.unique()]


class Completion:
    """Completes stored tasks with the replicas' AMs."""

    def __init__(self, sharc: SharcSettings, encoder: Encoder, batch_size: int, device: torch.device):
        """batch_size: of training. device: where pooled vectors are replayed."""
        self.sharc = sharc
        self.encoder = encoder
        self.batch_size = batch_size
        self.device = device
        self._writes = [0] * len(sharc.associative)

    def learn(
        self,
        stored: StoredTask,
        order: torch.Tensor,
        positions: torch.Tensor,
        masks: torch.Tensor,
        first: int,
        tasks: int,
    ) -> None:
        """Write a task to the AMs, and complete its samples if they are stored completed.

        order (R, N): training indices of the task as visited. positions (R, m): of the stored samples in it.
        masks (R, n, K): channels kept of the last n samples. first: the position from which samples are
        completed. tasks: how many were stored before.
        """
        stored.completes = positions >= first
        completed: list[dict[int, torch.Tensor]] = [{} for _ in order]
        runs = []
        for r, row in enumerate(order):
            labels = self.encoder.views.features.train_labels[row]
            write = TaskWrite(
                self.sharc,
                self.encoder,
                r,
                row,
                labels,
                masks[r],
                positions[r],
                first,
                self.batch_size,
                tasks,
                self._writes[r],
            )
            runs.append((write, write.run(completed[r])))
        for parts in zip_longest(*(run for _, run in runs)):
            memories, rows, targets = zip(*(part for part in parts if part), strict=True)
            type(memories[0]).write_all(memories, rows, targets)
        self._writes = [write.writes for write, _ in runs]
        if self.sharc.read == "at_store":
            self.complete([stored])
        elif self.sharc.read == "per_batch":
            self._take_over(stored, positions, completed)

    def complete(self, tasks: Sequence[StoredTask]) -> None:
        """Read the AMs for stored tasks, and replay what they complete from now on."""
        if not self.sharc.keeps_completed and all(memory.picks for memory in self.sharc.associative):
            for stored in tasks:
                self._complete_by_picks(stored)
            return
        replayed: list[list[Replayed]] = [[] for _ in tasks]
        for r, memory in enumerate(self.sharc.associative):
            calls = (call for stored in tasks if (call := _cues(stored, r)))
            recalled = memory.read_all(calls)
            for stored, its in zip(tasks, replayed, strict=True):
                assert stored.completes is not None
                rows = stored.completes[r]
                if bool(rows.all()):
                    full = next(recalled).cpu()
                else:
                    full = stored.sparse[r].decode()
                    if bool(rows.any()):
                        full[rows] = next(recalled).cpu()
                its.append(self._replayed(stored, r, full))
        for stored, its in zip(tasks, replayed, strict=True):
            self._replay_from(stored, its)

    def _complete_by_picks(self, stored: StoredTask) -> None:
        """Complete one stored task with the maps that the AMs pick, of which only pooled vectors are kept."""
        assert stored.completes is not None
        is_first = stored.picked is None
        if stored.picked is None:
            stored.picked = [
                PickedSamples(memory, self.encoder, r, sparse, index, completes)
                for r, (memory, sparse, index, completes) in enumerate(
                    zip(self.sharc.associative, stored.sparse, stored.index, stored.completes, strict=True)
                )
            ]
        updates = [picked.update() for picked in stored.picked]
        stored.recall_errors = [picked.recall_error for picked in stored.picked]
        if is_first:
            stored.x = torch.stack([update[1] for update in updates if update]).to(self.device)
        elif any(updates):
            stored.x = stored.x.clone()  # methods may hold the vectors that were replayed before
            for r, update in enumerate(updates):
                if update:
                    rows, vectors = update
                    stored.x[r, rows.to(self.device)] = vectors.to(self.device)

    def _take_over(
        self, stored: StoredTask, positions: torch.Tensor, completed: list[dict[int, torch.Tensor]]
    ) -> None:
        """Replay the completed maps (K, h, w) of one stored task, given by replica and position."""
        replayed = []
        for r, by_position in enumerate(completed):
            full = stored.sparse[r].decode()
            for row, position in enumerate(positions[r].tolist()):
                full[row] = by_position.get(position, full[row])
            replayed.append(self._replayed(stored, r, full))
        self._replay_from(stored, replayed)

    def _replayed(self, stored: StoredTask, r: int, recalled: torch.Tensor) -> Replayed:
        """Return the pooled vectors (n, K) of a replica's maps (n, K, h, w), and their recall error.

        If samples are stored completed, these maps replace the stored ones, in memory and in its bytes.
        """
        mask = stored.sparse[r].mask
        if self.sharc.keeps_completed and stored.completes is not None:
            kept = mask | stored.completes[r][:, None]
            stored.sparse[r] = self.encoder.representations[r].encode(recalled, kept)
            recalled = stored.sparse[r].decode()  # the error is that of the maps that are replayed
        return pool(recalled), self.encoder.recall_error(r, stored.index[r], recalled, mask)

    def _replay_from(self, stored: StoredTask, replayed: list[Replayed]) -> None:
        """Replay these vectors of each replica from now on, and record the recall errors."""
        vectors, errors = zip(*replayed, strict=True)
        stored.x = torch.stack(vectors).to(self.device)
        stored.recall_errors = list(errors)


def _cues(stored: StoredTask, r: int) -> Call | None:
    """Return sparse maps, masks and labels of a replica's samples of a task that are read; None for none."""
    assert stored.completes is not None
    sparse, rows = stored.sparse[r], stored.completes[r]
    if not bool(rows.any()):
        return None
    maps, mask, labels = sparse.decode(), sparse.mask, stored.y[r]
    return (maps, mask, labels) if bool(rows.all()) else (maps[rows], mask[rows], labels[rows])
