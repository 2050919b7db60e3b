"""GDumb (Prabhu, Torr & Dokania, ECCV 2020): a greedy sampler of the memory and a dumb learner."""

import math

from pydantic import Field, model_validator

from sharc_core.common.deferred import torch
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Batch
from sharc_core.methods.base import METHODS, Method


@METHODS.register("gdumb")
class GDumb(Method):
    """Learn nothing from the stream: before each evaluation, train a new head on the memory alone.

    The memory is balanced over classes, as the paper's greedy sampler keeps it. As in the authors' code
    (drimpossible/GDumb), a class has a fixed share of the memory, which later classes do not reduce. Which of
    its samples are stored follows from `memory.selection` (theirs are the first ones).

    Training is theirs: SGD with momentum 0.9, weight decay and gradients clipped to a norm; minibatches of a
    new shuffle in every epoch; one epoch at a tenth of `max_lr`, then cosine annealing from `max_lr` to
    `min_lr` with warm restarts, in cycles of 1, 2, 4, ... epochs. The defaults are theirs for CIFAR; 256
    epochs end with a complete cycle. The grid's block `training` does not matter.

    Differences: they use CutMix and random crops of images, which have no counterpart on features; they
    train the complete network, and here the backbone is frozen; they train once, after the last task.
    """

    title = "GDumb"
    selections = ("balanced", "herding")
    uses_training = False
    passes = 1

    class Settings(BaseSettings):
        """The schedule on the memory.

        max_lr, min_lr: ends of a cosine cycle. clip: largest norm of a gradient.
        """

        epochs: int = Field(default=256, ge=1)
        batch_size: int = Field(default=16, ge=1)
        max_lr: float = Field(default=0.05, gt=0)
        min_lr: float = Field(default=0.0005, ge=0)
        momentum: float = Field(default=0.9, ge=0, lt=1)
        weight_decay: float = Field(default=1e-6, ge=0)
        clip: float = Field(default=10.0, gt=0)

        @model_validator(mode="after")
        def _rates_are_in_order(self):
            if self.min_lr > self.max_lr:
                raise ValueError(f"min_lr {self.min_lr} is larger than max_lr {self.max_lr}: lower min_lr")
            return self

    def observe(self, batch, memory):
        """Learn nothing."""

    def filled(self, memory):
        """Draw a new head and train it on all stored samples."""
        seeds = [int(torch.randint(2**62, (), generator=g)) for g in self.generators]
        self.head.initialise(seeds)
        past = memory.tasks()
        x, y = torch.cat([task.x for task in past], 1), torch.cat([task.y for task in past], 1)
        velocity = torch.zeros_like(self.head.vector)
        for epoch in range(self.settings.epochs):
            order = torch.stack([torch.randperm(y.shape[1], generator=g) for g in self.generators])
            lr = rate(epoch, self.settings.max_lr, self.settings.min_lr)
            for at in order.to(y.device).split(self.settings.batch_size, 1):
                part = x.gather(1, at.unsqueeze(2).expand(-1, -1, x.shape[2]))
                self._step(Batch(part, y.gather(1, at)), velocity, lr)

    def _step(self, batch: Batch, velocity: torch.Tensor, lr: float) -> None:
        """Take one step of SGD with momentum, which updates velocity (R, P), on clipped gradients."""
        s, weights = self.settings, self.head.vector
        gradient = self.head.gradient(self.head.cross_entropy(batch))
        norm = gradient.square().sum(1, keepdim=True).sqrt()
        gradient.mul_((s.clip / (norm + 1e-6)).clamp_max(1)).add_(weights, alpha=s.weight_decay)
        weights.sub_(velocity.mul_(s.momentum).add_(gradient), alpha=lr)


def rate(epoch: int, highest: float, lowest: float) -> float:
    """Return the learning rate of an epoch, counted from 0.

    Epochs 2^k to 2^(k+1) - 1 are one cosine cycle; epoch 0 is a warm-up at a tenth of the highest rate.
    """
    if epoch == 0:
        return 0.1 * highest
    length = 1 << (epoch.bit_length() - 1)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * (epoch - length) / length)) / 2
