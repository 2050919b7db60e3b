"""ER-MIR: replay of the maximally interfered samples (Aljundi et al. 2019, arXiv 1908.04742)."""

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Batch, Head
from sharc_core.methods.base import METHODS, Method


@METHODS.register("mir")
class MIR(Method):
    """Current loss plus the loss on those stored samples that a step on the current loss would hurt most.

    Candidates are drawn from the memory. A virtual step of SGD is taken on the current batch alone, and the
    candidates whose loss it increases most are replayed (the paper's criterion MI-1, its algorithm 1).

    Differences to the authors' code (optimass/Maximally_Interfered_Retrieval): the criterion MI-2, which also
    compares with the smallest loss that a sample ever had and which they use for MNIST, is left out. They
    draw no candidates of the current task; here a reservoir may give such, while a memory that is filled at
    the end of a task holds none.
    """

    title = "MIR"

    class Settings(BaseSettings):
        """candidates: stored samples that are compared per step; 50 is the authors' `subsample`."""

        candidates: int = Field(default=50, ge=1)

    @classmethod
    def misfit(cls, settings, replay_batch_size):
        """Return a message if there are fewer candidates than samples to replay."""
        if settings.candidates >= replay_batch_size:
            return None
        return (
            f"candidates {settings.candidates} is smaller than training.replay_batch_size "
            f"{replay_batch_size}: raise candidates to {replay_batch_size} or more"
        )

    def observe(self, batch, memory):
        """Take one step on the sum of current and replayed loss."""
        loss = self.head.cross_entropy(batch)
        if memory:
            candidates = memory.sample(self.settings.candidates)
            ahead = self.head.copy()
            ahead.descend(loss, self.lr)
            increase = losses(ahead, candidates) - losses(self.head, candidates)
            loss += self.head.cross_entropy(most(candidates, increase, self.replay_batch_size))
        self.head.descend(loss, self.lr)


def losses(head: Head, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of each sample, (R, B)."""
    return -head.logits(batch.x).log_softmax(-1).gather(2, batch.y.unsqueeze(2)).squeeze(2)


def most(batch: Batch, scores: torch.Tensor, count: int) -> Batch:
    """Return each replica's samples of the `count` highest scores (R, B), in the order of the batch.

    Of equal scores, the first count.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices
    at = order[:, :count].sort(dim=1).values
    return Batch(batch.x.gather(1, at.unsqueeze(2).expand(-1, -1, batch.x.shape[2])), batch.y.gather(1, at))
