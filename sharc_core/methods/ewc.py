"""Online elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796; Schwarz et al. 2018)."""

from typing import Literal

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method


@METHODS.register("ewc")
class EWC(Method):
    """Current loss plus weight / 2 sum_k gamma F_k (w_k - w*_k)^2.

    w* is the head at the end of the previous task, and F its running diagonal Fisher matrix: after a task
    F <- gamma F + (mean over the task's samples of their Fisher), with the head at the end of the task
    (Schwarz et al., arXiv 1805.06370, section 3.2). The samples are seen a second time for that.

    The Fisher matrix of a softmax head has a closed form, the expectation over labels that the head predicts.
    `fisher: empirical` takes the true labels instead.

    Both papers search weight and gamma per experiment. The defaults are mammoth's for S-CIFAR-10: gamma 1 and
    its e_lambda of 10, which has no factor 1 / 2. mammoth weighs squared gradients for the true labels by the
    predicted probability of the label, a third Fisher matrix; divides their sum by the samples of full
    minibatches; and has no gamma in the penalty.

    Steps on the penalty are explicit, so they overshoot where lr * weight * gamma * F exceeds 2.
    """

    title = "online EWC"
    uses_memory = False
    reviews_tasks = True
    passes = 1

    class Settings(BaseSettings):
        """weight: lambda of the penalty. gamma: decay of the Fisher matrix. fisher: over which labels."""

        weight: float = Field(default=20.0, ge=0, allow_inf_nan=False)
        gamma: float = Field(default=1.0, ge=0, le=1)
        fisher: Literal["exact", "empirical"] = "exact"

    def __init__(self, *args):
        super().__init__(*args)
        self.anchor = torch.zeros_like(self.head.vector)
        self.fisher = torch.zeros_like(self.head.vector)
        self.sums = torch.zeros_like(self.head.vector)  # of the samples reviewed since the last task
        self.reviewed = 0

    def begin_task(self, task, memory):
        """Take the head as the anchor."""
        self.anchor.copy_(self.head.vector)

    def observe(self, batch, memory):
        """Take one step on the sum of loss and penalty."""
        loss = self.head.cross_entropy(batch)
        pull = self.fisher * (self.head.vector - self.anchor)
        self.head.descend(loss, self.lr)
        self.head.vector.sub_(pull, alpha=self.lr * self.settings.weight * self.settings.gamma)

    def review(self, batch):
        """Add the Fisher matrices of a minibatch's samples."""
        labels = batch.y if self.settings.fisher == "empirical" else None
        self.sums += self.head.fisher(batch.x, labels)
        self.reviewed += batch.x.shape[1]

    def end_task(self, task, memory):
        """Add the mean over the task's samples to the running Fisher matrix."""
        self.fisher.mul_(self.settings.gamma).add_(self.sums, alpha=1 / max(1, self.reviewed))
        self.sums.zero_()
        self.reviewed = 0

    @property
    def extra_bytes(self) -> int:
        """Bytes of anchor, Fisher matrix and the sum for the current task."""
        return 3 * self.head.bytes_per_replica
