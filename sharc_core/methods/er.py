"""Experience Replay (Chaudhry et al. 2019, arXiv 1902.10486)."""

from typing import Literal

from pydantic import model_validator

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Loss
from sharc_core.methods.base import METHODS, Method


@METHODS.register("er")
class ER(Method):
    """Current loss plus the loss on replayed samples."""

    class Settings(BaseSettings):
        """replay: one random minibatch, or (SHARC's published code) every past task whole, averaged.

        mean: "separate" adds the means of current and replayed losses, "joint" (mammoth) takes one of both.
        """

        replay: Literal["minibatch", "whole"] = "minibatch"
        mean: Literal["separate", "joint"] = "separate"

        @model_validator(mode="after")
        def _joint_needs_a_minibatch(self):
            if self.mean == "joint" and self.replay == "whole":
                raise ValueError("mean joint is over a minibatch: set replay to minibatch")
            return self

    def observe(self, batch, memory):
        """One step on current + replayed loss."""
        if memory and self.settings.mean == "joint":
            batch = batch.joined(memory.sample(self.replay_batch_size))
        loss = self.head.cross_entropy(batch)
        if memory and self.settings.mean == "separate":
            loss += self.replay_loss(memory)
        self.head.descend(loss, self.lr)

    def replay_loss(self, memory) -> Loss:
        """Loss on a random minibatch, or the mean of the past tasks' losses."""
        if self.settings.replay == "minibatch":
            return self.head.cross_entropy(memory.sample(self.replay_batch_size))
        losses = [self.head.cross_entropy(task) for task in memory.tasks()]
        return (1 / len(losses)) * sum(losses, Loss())
