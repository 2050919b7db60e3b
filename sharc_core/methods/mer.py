"""Meta-Experience Replay (Riemer et al. 2018, arXiv 1810.11910): Reptile within and across batches."""

from typing import Literal

from pydantic import Field, model_validator

from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Batch
from sharc_core.methods.base import METHODS, Method


@METHODS.register("mer")
class MER(Method):
    """After a batch's inner steps, weights <- start + beta (end - start); after all batches, with gamma.

    With the published settings (beta = gamma = 1, one batch, one inner step per batch) both Reptile steps
    are the identity, and MER equals ER with a random minibatch.
    """

    title = "MER"

    class Settings(BaseSettings):
        """Settings of MER.

        beta, gamma: Reptile rates. batches: inner batches per step, each with its own replay draw. inner:
        "batch" takes one SGD step per batch (current + replayed loss); "sample" takes one per sample, as in
        algorithm 1 of Riemer et al. (replayed samples first, current ones last). mean: of a "batch" step, as
        for ER.
        """

        beta: float = Field(default=1.0, gt=0, le=1)
        gamma: float = Field(default=1.0, gt=0, le=1)
        batches: int = Field(default=1, ge=1)
        inner: Literal["batch", "sample"] = "batch"
        mean: Literal["separate", "joint"] = "separate"

        @model_validator(mode="after")
        def _joint_needs_batches(self):
            if self.mean == "joint" and self.inner == "sample":
                raise ValueError("mean joint is over a batch: set inner to batch")
            return self

    def observe(self, batch, memory):
        """Run `batches` inner batches, each from where the last one's Reptile step ended."""
        outer = self.head.vector.clone() if self.settings.gamma != 1 else None
        for _ in range(self.settings.batches):
            start = self.head.vector.clone() if self.settings.beta != 1 else None
            parts = ([memory.sample(self.replay_batch_size)] if memory else []) + [batch]
            if memory and self.settings.mean == "joint":
                parts = [batch.joined(parts[0])]
            self._inner(parts)
            self._reptile(start, self.settings.beta)
        self._reptile(outer, self.settings.gamma)

    def _inner(self, parts: list[Batch]) -> None:
        if self.settings.inner == "batch":
            # current first, so that with one batch the sum is formed exactly as ER forms it
            first, *rest = [self.head.cross_entropy(part) for part in reversed(parts)]
            self.head.descend(sum(rest, first), self.lr)
            return
        for part in parts:
            for i in range(part.x.shape[1]):
                one = Batch(part.x[:, i : i + 1], part.y[:, i : i + 1])
                self.head.descend(self.head.cross_entropy(one), self.lr)

    def _reptile(self, start, rate: float) -> None:
        if start is not None:
            self.head.vector.copy_(start.lerp_(self.head.vector, rate))
