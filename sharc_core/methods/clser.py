"""CLS-ER (Arani et al. 2022, arXiv 2201.12604): a stable and a plastic average of the head."""

from typing import Literal

from pydantic import Field

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.methods.base import METHODS, Method


@METHODS.register("clser")
class CLSER(Method):
    """Replay plus consistency with the average head that gives the true class the higher probability.

    As in the authors' code (NeurAI-Lab/CLS-ER), the cross-entropy is one mean over current and replayed
    samples (ER adds two means, so with equal batches its step is twice as long), and the consistency loss is
    the mean over the logits of the replayed samples. As in the paper, the stable average predicts. The
    default settings are the authors' for Sequential CIFAR-10 with buffer 200. One difference is shared by
    all methods here: by default the memory is filled at the end of a task (the authors use reservoir
    sampling from the first batch on), so the first task has nothing to replay.
    """

    title = "CLS-ER"

    class Settings(BaseSettings):
        """Settings of CLS-ER.

        reg: weight of the consistency loss. *_rate: probability that an average is updated at a step.
        *_decay: its final decay; at a step it is min(1 - 1 / (step + 1), decay). evaluated: which head
        predicts. The authors' code and SHARC's test all three; their main log has the trained "net".
        """

        reg: float = Field(default=0.15, ge=0)
        stable_rate: float = Field(default=0.1, gt=0, le=1)
        stable_decay: float = Field(default=0.999, ge=0, lt=1)
        plastic_rate: float = Field(default=0.3, gt=0, le=1)
        plastic_decay: float = Field(default=0.999, ge=0, lt=1)
        evaluated: Literal["stable", "plastic", "net"] = "stable"

    def __init__(self, *args):
        super().__init__(*args)
        self.stable, self.plastic = self.head.copy(), self.head.copy()
        self.step = 0
        self._draws: list[torch.Tensor] = []

    def observe(self, batch, memory):
        """Take one step on the loss of current and replayed samples plus consistency; update the averages."""
        if memory:
            replay = memory.sample(self.replay_batch_size)
            loss = self.head.cross_entropy(batch.joined(replay))
            loss += self.settings.reg * self.head.logit_mse(replay, self.teacher_logits(replay))
        else:
            loss = self.head.cross_entropy(batch)
        self.head.descend(loss, self.lr)
        self.step += 1
        self._average()

    def teacher_logits(self, replay):
        """Return logits (R, B, C) of the average that gives the true class the higher probability."""
        stable, plastic = self.stable.logits(replay.x), self.plastic.logits(replay.x)
        true = replay.y.unsqueeze(2)
        stable_wins = stable.softmax(-1).gather(2, true) > plastic.softmax(-1).gather(2, true)
        return torch.where(stable_wins, stable, plastic)

    def _average(self) -> None:
        """Set average <- decay * average + (1 - decay) * head in replicas whose draw is below the rate."""
        if not self._draws:  # (256, 2, R) uniform numbers at a time: plastic's draw, then stable's
            block = torch.stack([torch.rand(256, 2, generator=g) for g in self.generators], 2)
            self._draws = list(reversed(block.unbind(0)))
        plastic_draw, stable_draw = self._draws.pop()
        s = self.settings
        for average, draw, rate, decay in (
            (self.plastic, plastic_draw, s.plastic_rate, s.plastic_decay),
            (self.stable, stable_draw, s.stable_rate, s.stable_decay),
        ):
            update = draw < rate
            if update.any():
                weight = update.to(self.head.vector) * (1 - min(1 - 1 / (self.step + 1), decay))
                average.vector.lerp_(self.head.vector, weight.unsqueeze(1))

    def predict(self, x):
        """Return logits (R, B, C) of the stable average, or of the head that `evaluated` names."""
        heads = {"stable": self.stable, "plastic": self.plastic, "net": self.head}
        return heads[self.settings.evaluated].logits(x)

    @property
    def trained_heads(self):
        """The head and both averages."""
        return [self.head, self.stable, self.plastic]

    @property
    def predicts_with_copy(self) -> bool:
        """An average is a copy of the network; the published code tests it with a backbone of its own."""
        return self.settings.evaluated != "net"

    @property
    def extra_bytes(self) -> int:
        """Bytes of two copies of the head."""
        return 2 * self.head.bytes_per_replica
