"""DER++ (Buzzega et al. 2020, arXiv 2004.07211)."""

from typing import Literal

from pydantic import Field

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method


@METHODS.register("derpp")
class DERpp(Method):
    """Current loss + alpha * MSE to stored logits + beta * loss on a second minibatch."""

    title = "DER++"
    needs_logits = True
    passes = 3

    class Settings(BaseSettings):
        """Settings of DER++.

        alpha: weight of the distillation of logits. beta: weight of the loss on replayed labels. logits_at:
        whether a sample's logits are those of the head just before the step on it ("visit", as in the
        published codes) or at the end of its task ("task_end"). A reservoir takes them at the visit.
        """

        alpha: float = Field(default=0.1, ge=0)
        beta: float = Field(default=0.5, ge=0)
        logits_at: Literal["task_end", "visit"] = "task_end"

    def observe(self, batch, memory):
        """Take one step on the sum of the three losses."""
        loss = self.head.cross_entropy(batch)
        if memory:
            first, second = (memory.sample(self.replay_batch_size) for _ in range(2))
            loss += self.settings.alpha * self.head.logit_mse(first, first.logits)
            loss += self.settings.beta * self.head.cross_entropy(second)
        self.head.descend(loss, self.lr)
