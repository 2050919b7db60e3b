"""ER-ACE: experience replay with asymmetric cross-entropy (Caccia et al. 2022, arXiv 2104.05025)."""

from typing import Literal

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method


@METHODS.register("er_ace")
class ERACE(Method):
    """Current loss among the classes of the current batch, replayed loss among all classes seen so far.

    L_ace = L_ce(X_bf, C_old + C_curr) + L_ce(X_in, C_curr), where C_curr are the classes of the incoming
    batch. The current batch then does not push down the logits of old classes. New classes learn to compete
    with old ones in the replayed loss alone, so the memory must hold samples of both; the authors' code
    insists on that, too.

    Differences to the authors' code (pclucas14/AML) and mammoth: there the current loss includes classes that
    were not seen yet, and the replayed loss all classes of the stream. mammoth has no mask in the first task.
    """

    title = "ER-ACE"
    replays_current_task = True

    class Settings(BaseSettings):
        """current: C_curr, the classes of the current "batch" (the paper) or of the current "task"."""

        current: Literal["batch", "task"] = "batch"

    def begin_task(self, task, memory):
        """Note which classes are in the task and which were seen so far, (C,) of True and False."""
        classes = torch.arange(task.total, device=self.head.vector.device)
        self.own, self.seen = (
            torch.isin(classes, torch.tensor(labels, device=classes.device))
            for labels in (task.classes, task.seen)
        )

    def observe(self, batch, memory):
        """Take one step on the sum of current and replayed loss."""
        current = self.own
        if self.settings.current == "batch":
            absent = current.new_zeros(self.replicas, len(current))
            current = absent.scatter(1, batch.y, True)
        loss = self.head.loss(batch.x, lambda logits: cross_entropy_among(current, logits, batch.y))
        if memory:
            replay = memory.sample(self.replay_batch_size)
            loss += self.head.loss(replay.x, lambda logits: cross_entropy_among(self.seen, logits, replay.y))
        self.head.descend(loss, self.lr)


def cross_entropy_among(classes: torch.Tensor, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return each replica's mean cross-entropy, (R,), of a softmax over some classes only.

    classes: (C,) or (R, C), True for those classes. logits: (R, B, C). y: labels among those classes, (R, B).
    """
    chosen = logits.masked_fill(~classes.unsqueeze(-2), -torch.inf)
    return -chosen.log_softmax(-1).gather(2, y.unsqueeze(2)).mean((1, 2))
