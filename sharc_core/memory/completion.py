"""SHARC at the end of a task: what the associative memory (AM) learns, forgets and completes."""

from dataclasses import dataclass

import torch

from sharc_core.common.pooling import pool
from sharc_core.memory.encoding import Encoder
from sharc_core.memory.options import SharcSettings
from sharc_core.memory.picked import PickedSamples
from sharc_core.memory.stored_task import StoredTask


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

    def run(self) -> dict[int, torch.Tensor]:
        """Forget and write. Return completed maps (K, h, w) by position if `read` is per_batch, else none."""
        s, memory = self.settings, self.settings.associative[self.replica]
        completed: dict[int, torch.Tensor] = {}
        if s.forget_unit == "task" and self.tasks:
            self._forget_at(self.tasks + 1)
        for chunk in self._chunks():
            self.writes += 1
            if s.forget_unit == "batch":
                self._forget_at(self.writes)
            rows, labels = self.encoder.rows(self.replica, self.order[chunk]), self.labels[chunk]
            memory.write_rows(rows, labels)
            if s.read == "per_batch":
                maps, mask = rows[:], self.masks[chunk - (len(self.order) - len(self.masks))]
                cues = self.encoder.representations[self.replica].encode(maps, mask).decode()
                full = memory.read(cues, mask, labels).cpu()
                completed |= dict(zip(chunk.tolist(), full, strict=True))
        return completed

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
        completed = []
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
            completed.append(write.run())
            self._writes[r] = write.writes
        if self.sharc.read == "at_store":
            self.complete(stored)
        elif self.sharc.read == "per_batch":
            self._take_over(stored, positions, completed)

    def complete(self, stored: StoredTask) -> None:
        """Read the AMs for one stored task, and replay what they complete from now on."""
        assert stored.completes is not None
        if not self.sharc.keeps_completed and all(memory.picks for memory in self.sharc.associative):
            self._complete_by_picks(stored)
            return
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
        maps = []
        for r, by_position in enumerate(completed):
            full = stored.sparse[r].decode()
            for row, position in enumerate(positions[r].tolist()):
                full[row] = by_position.get(position, full[row])
            maps.append(full)
        self._replay_from(stored, maps)

    def _replay_from(self, stored: StoredTask, maps: list[torch.Tensor]) -> None:
        """Replay these maps (n, K, h, w) of each replica from now on, and record the recall errors.

        If samples are stored completed, these maps replace the stored ones, in memory and in its bytes.
        """
        assert stored.completes is not None
        pooled, errors = [], []
        for r, recalled in enumerate(maps):
            mask = stored.sparse[r].mask
            if self.sharc.keeps_completed and stored.completes is not None:
                kept = mask | stored.completes[r][:, None]
                stored.sparse[r] = self.encoder.representations[r].encode(recalled, kept)
                recalled = stored.sparse[r].decode()  # the error is that of the maps that are replayed
            errors.append(self.encoder.recall_error(r, stored.index[r], recalled, mask))
            pooled.append(pool(recalled))
        stored.x = torch.stack(pooled).to(self.device)
        stored.recall_errors = errors
