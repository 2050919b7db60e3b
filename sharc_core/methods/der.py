"""DER, Dark Experience Replay (Buzzega et al. 2020, arXiv 2004.07211)."""

from typing import Literal

from pydantic import Field

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method


@METHODS.register("der")
class DER(Method):
    """Current loss + alpha * MSE to stored logits: DER++ without the loss on replayed labels (its eq. 5).

    The default alpha is the published one for Sequential CIFAR-10 at all buffers (with lr 0.03; 0.1 for
    Tiny ImageNet). As DER++ here, it stores logits at the end of a task by default. The authors store those
    of the visit in a reservoir: set `memory.selection: reservoir`.
    """

    title = "DER"
    needs_logits = True

    class Settings(BaseSettings):
        """alpha: weight of the distillation of logits. logits_at: when they are computed, as for DER++."""

        alpha: float = Field(default=0.3, ge=0)
        logits_at: Literal["task_end", "visit"] = "task_end"

    def observe(self, batch, memory):
        """Take one step on the sum of both losses."""
        loss = self.head.cross_entropy(batch)
        if memory:
            replay = memory.sample(self.replay_batch_size)
            loss += self.settings.alpha * self.head.logit_mse(replay, replay.logits)
        self.head.descend(loss, self.lr)
