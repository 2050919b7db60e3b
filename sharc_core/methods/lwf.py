"""Learning without Forgetting (Li & Hoiem 2016, arXiv 1606.09282)."""

from typing import Literal

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method
from sharc_core.methods.er_ace import cross_entropy_among


@METHODS.register("lwf")
class LwF(Method):
    """Current loss plus distillation of the head as it was before the task, on current samples (eq. 2, 3).

    The distillation is the cross-entropy between softmax(old logits / T) and softmax(logits / T), a mean over
    the samples. The weight of 1 and T = 2 are the paper's.

    The paper gives every task a softmax of its own (`outputs: per_task`). The new loss is then among the
    classes of the current task, and each old task adds a distillation among its classes. For a linear head on
    a frozen backbone this leaves the old classes' weights as they are. By default all classes share one
    softmax: the new loss is that of SGD, and one distillation is among all classes seen before the task. So
    does mammoth, whose weight for S-CIFAR-10 is 3. Other differences: the paper uses weight decay and trains
    the new outputs alone first; so does mammoth, whose new loss also leaves out classes not seen yet.
    """

    title = "LwF"
    uses_memory = False
    passes = 1

    class Settings(BaseSettings):
        """weight: of the distillation. temperature: T. outputs: one "shared" softmax or one "per_task"."""

        weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
        temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)
        outputs: Literal["shared", "per_task"] = "shared"

    def __init__(self, *args):
        super().__init__(*args)
        self.previous = self.head.copy()
        self.own: tuple[int, ...] = ()
        self.old: list[tuple[int, ...]] = []  # classes of each softmax that is distilled
        self._learnt: list[tuple[int, ...]] = []  # classes of each task that has begun

    def begin_task(self, task, memory):
        """Copy the head, and note the classes of the task and of the earlier ones."""
        self.previous.vector.copy_(self.head.vector)
        # sets of classes that several tasks share, as in Domain-IL, have one softmax
        self.old = list(dict.fromkeys(self._learnt))
        if self.settings.outputs == "shared" and self.old:
            self.old = [tuple(sorted(set().union(*self.old)))]
        self.own = tuple(sorted(task.classes))
        self._learnt.append(self.own)

    def observe(self, batch, memory):
        """Take one step on the sum of the new loss and the distillation."""
        if self.settings.outputs == "shared":
            loss = self.head.cross_entropy(batch)
        else:
            own = torch.zeros(self.head.classes, dtype=torch.bool, device=batch.x.device)
            own[list(self.own)] = True
            loss = self.head.loss(batch.x, lambda logits: cross_entropy_among(own, logits, batch.y))
        if self.old:
            target = self.previous.logits(batch.x)
            loss += self.settings.weight * self.head.loss(batch.x, lambda z: self._distillation(z, target))
        self.head.descend(loss, self.lr)

    def _distillation(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the sum over softmaxes of the mean cross-entropy, (R,), for logits and target (R, B, C)."""
        total = logits.new_zeros(self.replicas)
        for classes in map(list, self.old):
            recorded = (target[..., classes] / self.settings.temperature).softmax(-1)
            now = (logits[..., classes] / self.settings.temperature).log_softmax(-1)
            total = total - (recorded * now).sum(-1).mean(1)
        return total

    @property
    def extra_bytes(self) -> int:
        """Bytes of a copy of the head."""
        return self.head.bytes_per_replica
