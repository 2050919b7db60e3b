"""Which samples of a task are stored: the selection ranks them, the budget limits how many fit."""

from dataclasses import dataclass

from sharc_core.common.deferred import torch
from sharc_core.features.views import DriftingReplicas, ReplicaViews
from sharc_core.memory.budget import Budget
from sharc_core.memory.options import SharcSettings, Storing
from sharc_core.saliency.channel_masks import kept_channels
from sharc_core.selection import SELECTIONS

COUNTED = 256  # maps whose non-zero values are counted at a time


@dataclass(frozen=True)
class Spending:
    """What earlier tasks took: their number, their samples, and what they left if that is carried over."""

    tasks: int = 0
    samples: int = 0
    left: int = 0


class Chooser:
    """Chooses the samples of one task after the other, within the budget."""

    def __init__(
        self,
        budget: Budget,
        storing: Storing,
        sharc: SharcSettings | None,
        views: ReplicaViews | DriftingReplicas,
    ):
        """sharc: None if samples are stored with all channels. views: how each replica sees the features."""
        self.budget = budget
        self.selection = SELECTIONS.get(storing.selection)()
        self.sharc = sharc
        self.views = views
        self.batch_size = storing.batch_size
        self.spending = Spending()

    def count_candidates(self, samples: int, first: int) -> int:
        """Return how many of a task's last samples may be stored or learnt by the AM.

        samples: of the task. first: the position from which they are completed.
        """
        sharc = self.sharc
        if sharc is None or sharc.theta is None or sharc.importance != "absolute":
            return samples  # what they cost is not known yet
        if self.selection.needs_all_candidates or self.budget.unit == "nonzero":
            return samples
        most = torch.full((samples,), kept_channels(self._channels, sharc.theta))
        completed = torch.arange(samples).flip(0) >= first
        spending = self.spending
        count, _ = self.budget.fitting(spending.tasks, most, spending.samples, spending.left, completed)
        return count if sharc.complete == "all" else max(count, samples - first)

    def choose(
        self, replica: int, order: torch.Tensor, mask: torch.Tensor | None, first: int
    ) -> tuple[torch.Tensor, int]:
        """Return the positions (m,) in order (N,) of the samples to store, and what they leave.

        order: training indices of the task as visited. mask (n, K): channels kept of the last n samples, or
        None for all channels of all samples. first: the position from which samples are completed. Positions
        are in the order of the visit.
        """
        count = len(order) if mask is None else len(mask)
        kept = self._kept(replica, order[len(order) - count :], mask)
        offset = len(order) - len(kept)
        completed = torch.arange(offset, len(order)) >= first
        candidates = TaskCandidates(self, replica, order[offset:], kept, completed)
        positions, left = self.selection.choose(candidates, candidates.fitting)
        return positions + offset, left

    def spend(self, samples: int, left: int) -> None:
        """Record that so many samples of a task were stored, and what they left of its allowance."""
        before = self.spending
        self.spending = Spending(before.tasks + 1, before.samples + samples, left)

    @property
    def _channels(self) -> int:
        return self.budget.shape[0]

    def _kept(self, replica: int, index: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return what samples index (n,) keep, as Budget.costs takes it.

        mask: (n, K), None for all channels. Maps may be read from disk, so values are counted from the last
        sample backwards; if the selection does not need all candidates, only until they exceed the budget.
        The result (k,) is of the last k samples.
        """
        if (codec := self.budget.codec) is not None:
            return self.views.encoded(replica, codec).sizes[index]
        if self.budget.unit != "nonzero":
            return torch.full((len(index),), self._channels) if mask is None else mask.sum(-1)
        counts, spent = [], 0
        available = self.budget.available(self.spending.tasks, self.spending.left)
        for end in range(len(index), 0, -COUNTED):
            part = slice(max(0, end - COUNTED), end)
            values = self.views.nonzero(replica, index[part])
            counts.append((values if mask is None else values * mask[part]).sum(1))
            spent += int(counts[-1].sum())
            if spent > available and not self.selection.needs_all_candidates:
                break
        return torch.cat(counts[::-1])


@dataclass(frozen=True)
class TaskCandidates:
    """One replica's candidates, as a selection sees them; implements selection.Candidates.

    index (n,): training indices in the order of the visit. kept (n,): as for Budget.costs. completed (n,)
    bool.
    """

    chooser: Chooser
    replica: int
    index: torch.Tensor
    kept: torch.Tensor
    completed: torch.Tensor

    @property
    def labels(self) -> torch.Tensor:
        """(n,)"""
        return self.chooser.views.features.train_labels[self.index]

    @property
    def batch_size(self) -> int:
        """Size of the training batches."""
        return self.chooser.batch_size

    @property
    def allowance(self) -> int:
        """What the task may spend, in the budget's unit."""
        spending = self.chooser.spending
        return self.chooser.budget.available(spending.tasks, spending.left)

    def costs(self) -> torch.Tensor:
        """Return what each sample costs, (n,) int64."""
        return self.chooser.budget.costs(self.kept, self.completed)

    def pooled(self) -> torch.Tensor:
        """Return the pooled vectors (n, K)."""
        return self.chooser.views.vectors(self.replica, self.index)

    def most(self) -> int:
        """Return an upper bound on how many of them fit."""
        spending = self.chooser.spending
        return self.chooser.budget.most(spending.tasks, self.kept, spending.left, self.completed)

    def fitting(self, ranked: torch.Tensor) -> tuple[int, int]:
        """Return how many of the first of ranked (m,) fit, and what they leave of the allowance."""
        spending = self.chooser.spending
        return self.chooser.budget.fitting(
            spending.tasks, self.kept[ranked], spending.samples, spending.left, self.completed[ranked]
        )
