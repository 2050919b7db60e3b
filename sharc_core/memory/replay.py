"""Replay: minibatches drawn from the stored samples."""

from sharc_core.common.deferred import torch
from sharc_core.common.seeds import MinibatchSampler, generator
from sharc_core.heads import Batch

BLOCK = 256  # minibatches drawn at a time


class ReplaySet:
    """The samples that minibatches are drawn from; every replica draws its own.

    batch: x (R, N, K), y (R, N) and logits (R, N, C) or None; None before anything can be replayed.
    replayed: samples per replica that were handed out so far.
    """

    sampler = MinibatchSampler

    def __init__(self, seeds: list[int], device: torch.device):
        """seeds: of the R replicas, from which each derives its random draws."""
        self.device = device
        self.batch: Batch | None = None
        self.replayed = 0
        self.draws = [generator(seed, "replay") for seed in seeds]
        self._block = BLOCK
        self._samplers: dict[int, list[MinibatchSampler]] = {}
        self._queues: dict[int, list[torch.Tensor]] = {}

    def replace(self, batch: Batch, block: int = BLOCK) -> None:
        """Draw from other samples from now on, `block` minibatches at a time."""
        self.batch, self._block = batch, block
        self._samplers.clear()
        self._queues.clear()

    def sample(self, size: int) -> Batch:
        """Return a minibatch (R, size, ...) of distinct samples, drawn uniformly."""
        samples = self.batch
        assert samples is not None, "nothing is stored yet"
        population = samples.x.shape[1]
        if size not in self._samplers:
            self._samplers[size] = [self.sampler(g, population, size, self._block) for g in self.draws]
            self._queues[size] = []
        queue = self._queues[size]
        if not queue:
            first = torch.arange(len(self.draws))[:, None, None] * population
            # (block, R, size) positions in the flattened (R * N) samples
            block = torch.stack([s.draw() for s in self._samplers[size]]) + first
            queue.extend(reversed(block.transpose(0, 1).contiguous().to(self.device).unbind(0)))
        flat = queue.pop()
        self.replayed += flat.shape[1]
        return Batch(
            samples.x.flatten(0, 1)[flat],
            samples.y.flatten()[flat],
            None if samples.logits is None else samples.logits.flatten(0, 1)[flat],
        )
