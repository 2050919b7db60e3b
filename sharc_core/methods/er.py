"""Experience Replay (Chaudhry et al. 2019, arXiv 1902.10486)."""

from typing import Literal

from sharc_core.heads import Batch, Loss
from sharc_core.methods.base import METHODS, Method
from sharc_core.settings import Settings as BaseSettings


@METHODS.register("er")
class ER(Method):
    """Current loss plus the loss on replayed samples."""

    class Settings(BaseSettings):
        """replay: one random minibatch, or (SHARC's published code) every past task whole, averaged."""

        replay: Literal["minibatch", "whole"] = "minibatch"

    def observe(self, batch, memory):
        """One step on current + replayed loss."""
        loss = self.head.cross_entropy(batch)
        if memory:
            loss += self.replay_loss(memory)
        self.head.descend(loss, self.lr)

    def replay_loss(self, memory) -> Loss:
        """Loss on a random minibatch, or the mean of the past tasks' losses."""
        if self.settings.replay == "minibatch":
            return self.head.cross_entropy(memory.sample(self.replay_batch_size))
        past: list[Batch] = memory.tasks()
        return (1 / len(past)) * sum((self.head.cross_entropy(task) for task in past), Loss())
