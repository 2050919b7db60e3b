"""Experience Replay (Chaudhry et al. 2019, arXiv 1902.10486)."""

from typing import Literal

from pydantic import model_validator

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method


@METHODS.register("er")
class ER(Method):
    """Current loss plus the loss on replayed samples."""

    title = "ER"
    replays_tasks_if = {"replay": "whole"}

    class Settings(BaseSettings):
        """replay: one random minibatch, or all past samples, averaged over tasks (SHARC's published code).

        mean: "separate" adds the means of both losses, "joint" (mammoth) takes one mean over both.
        """

        replay: Literal["minibatch", "whole"] = "minibatch"
        mean: Literal["separate", "joint"] = "separate"

        @model_validator(mode="after")
        def _joint_needs_a_minibatch(self):
            if self.mean == "joint" and self.replay == "whole":
                raise ValueError("mean joint is over a minibatch: set replay to minibatch")
            return self

    def observe(self, batch, memory):
        """Take one step on the sum of current and replayed loss."""
        if memory and self.settings.mean == "joint":
            batch = batch.joined(memory.sample(self.replay_batch_size))
        loss = self.head.cross_entropy(batch)
        if memory and self.settings.mean == "separate":
            whole = self.settings.replay == "whole"
            past = memory.tasks() if whole else [memory.sample(self.replay_batch_size)]
            for replay in past:
                loss += (1 / len(past)) * self.head.cross_entropy(replay)
        self.head.descend(loss, self.lr)
