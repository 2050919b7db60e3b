"""A memory that is filled at the end of each task, and knows which task its samples are of."""

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.features.views import DriftingFeatures, TrainingFeatures
from sharc_core.heads import Batch, Head
from sharc_core.memory.budget import Budget
from sharc_core.memory.choosing import Chooser
from sharc_core.memory.completion import Completion
from sharc_core.memory.encoding import Encoder
from sharc_core.memory.episodic import EpisodicMemory
from sharc_core.memory.options import SharcSettings, Storing
from sharc_core.memory.stored_task import StoredTask
from sharc_core.representations import Stored


class TaskMemory(EpisodicMemory):
    """Stores as many samples of each task as the budget holds. `stored` has one entry per task."""

    def __init__(
        self,
        features: TrainingFeatures | DriftingFeatures,
        seeds: list[int],
        budget: Budget,
        sharc: SharcSettings | None = None,
        storing: Storing | None = None,
        device: torch.device | str = "cpu",
    ):
        """budget: what may be stored. For the other arguments see EpisodicMemory."""
        super().__init__(features, seeds, sharc, storing, device)
        self.budget = budget
        self.encoder = Encoder(features, seeds, self.storing)
        self.chooser = Chooser(budget, self.storing, sharc, self.encoder.views)
        self.completion: Completion | None = None
        if sharc is not None:
            self.completion = Completion(sharc, self.encoder, self.storing.batch_size, self.device)
        self._completed_at: list[int] | None = None  # maps that each AM had learnt at the last completion
        self._visited: dict[str, list[torch.Tensor]] = {"saliency": [], "logits": []}

    # --- while a task is being learnt ------------------------------------------------------------

    def begin_pass(self):
        """Drop what was recorded in an earlier pass."""
        for recorded in self._visited.values():
            recorded.clear()

    def visit(self, index, batch, head):
        """Record saliency and logits of a training batch, as far as they are those of the visit."""
        if self.sharc is not None and self.sharc.saliency_at == "visit":
            self._visited["saliency"].append(self._saliency(batch.x, batch.y, head))
        if self.storing.keep_logits and self.storing.logits_at == "visit":
            self._visited["logits"].append(head.logits(batch.x).clone())

    def _at_visit(self, what: str, samples: int) -> torch.Tensor | None:
        """Return what was recorded of the last samples, (R, samples, ...); None if nothing was."""
        recorded = self._visited[what]
        return torch.cat(recorded, 1)[:, -samples:] if recorded else None

    # --- at the end of a task --------------------------------------------------------------------

    def store(self, order, head):
        """Store samples of the task that has just been learnt, as many as the budget holds.

        order (R, N): training indices of the task as the replicas visited them. head: gives saliency and
        logits. Raises UserError if not one sample fits, or if replicas would store different numbers of
        samples (Cell.has_ragged_tasks: run the seeds one by one, as run_cell does).
        """
        first = self._completed_from(order.shape[1])
        masks = self._masks(order, head, first)
        chosen = [
            self.chooser.choose(r, row, None if masks is None else masks[r], first)
            for r, row in enumerate(order)
        ]
        if len({len(positions) for positions, _ in chosen}) > 1:
            raise UserError("each seed would keep another number of samples: run them one by one")
        positions = torch.stack([positions for positions, _ in chosen])
        index = order.gather(1, positions)
        stored = StoredTask(
            index,
            self.features.train_labels[index],
            self._logits(order, positions, head),
            self._encoded(index, positions, masks, order.shape[1]),
        )
        if self.completion is None or masks is None:
            stored.x = torch.stack([sparse.pooled() for sparse in stored.sparse]).to(self.device)
        else:
            self.completion.learn(stored, order, positions, masks, first, len(self.stored))
        self.stored.append(stored)
        self.chooser.spend(stored.samples, chosen[0][1])

    def _completed_from(self, samples: int) -> int:
        """Return the position from which a task's samples are completed."""
        if self.sharc is None or self.sharc.complete == "all":
            return 0
        slots = self.budget.slots(len(self.stored))
        return self.sharc.completed_from(samples, self.storing.batch_size, slots)

    def _masks(self, order: torch.Tensor, head: Head, first: int) -> torch.Tensor | None:
        """Return the channels to keep of the last n samples of a task, (R, n, K) bool; None for all channels.

        first: the position from which samples are completed.
        """
        if self.sharc is None:
            return None
        saliency = self._at_visit("saliency", order.shape[1])
        if saliency is None:
            last = order[:, -self.chooser.count_candidates(order.shape[1], first) :]
            x = self.encoder.views.pooled(last).to(self.device)
            saliency = self._saliency(x, self.features.train_labels[last].to(self.device), head)
        return self.sharc.kept(saliency)

    def _logits(self, order: torch.Tensor, positions: torch.Tensor, head: Head) -> torch.Tensor | None:
        """Return the logits (R, n, C) to store of the samples at positions (R, n) in order (R, N), if any."""
        if not self.storing.keep_logits:
            return None
        visited = self._at_visit("logits", order.shape[1])
        if visited is None:
            return head.logits(self.encoder.views.pooled(order.gather(1, positions)).to(self.device))
        at = positions.to(visited.device).unsqueeze(2).expand(-1, -1, visited.shape[2])
        return visited.gather(1, at)

    def _encoded(
        self, index: torch.Tensor, positions: torch.Tensor, masks: torch.Tensor | None, samples: int
    ) -> list[Stored]:
        """Return the encoded samples index (R, n) of each replica.

        positions (R, n): of them among the task's `samples`, of the last of which masks (R, m, K) are.
        """
        if masks is None:
            return [self.encoder.encode(r, row, None) for r, row in enumerate(index)]
        offset = samples - masks.shape[1]
        return [self.encoder.encode(r, row, masks[r, positions[r] - offset]) for r, row in enumerate(index)]

    # --- replay ----------------------------------------------------------------------------------

    def begin_task(self):
        """Replay the samples of all earlier tasks from now on, completed if that is done per task."""
        if not self.stored:
            return
        self._complete()
        logits = None
        if self.storing.keep_logits:
            logits = torch.cat([s.logits for s in self.stored if s.logits is not None], 1)
        x, y = torch.cat([s.x for s in self.stored], 1), torch.cat([s.y for s in self.stored], 1)
        self.replay.replace(Batch(x, y.to(self.device), logits))

    def _complete(self) -> None:
        """Complete all samples if that is done per task and the AM has learnt since it was done last."""
        if self.completion is None or self.completion.sharc.read != "per_task":
            return
        learnt = [memory.written for memory in self.completion.sharc.associative]
        if learnt != self._completed_at:
            self.completion.complete(self.stored)
            self._completed_at = learnt

    def tasks(self):
        """Return all stored samples of each past task, (R, n, K), as the next task would replay them."""
        self._complete()
        self.replay.replayed += self.samples_stored
        return [stored.batch(self.device) for stored in self.stored]

    # --- accounting ------------------------------------------------------------------------------

    @property
    def samples_stored(self):
        """Samples per replica."""
        return sum(stored.samples for stored in self.stored)

    def episodic_bytes(self):
        """Return the bytes stored per replica, counted from the stored tensors."""
        shared = self.encoder.shared_bytes
        return [shared + sum(stored.nbytes(r) for stored in self.stored) for r in range(len(self.seeds))]

    def recall_mse(self):
        """Return the mean squared error over dropped entries, averaged over tasks; None before any."""
        errors = [s.recall_errors for s in self.stored if s.recall_errors is not None]
        if not errors:
            return super().recall_mse()
        return torch.tensor(errors, dtype=torch.float64).mean(0).tolist()
