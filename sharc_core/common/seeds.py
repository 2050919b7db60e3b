"""Random streams, one generator per (seed, axis). Changing one axis does not change the others' draws."""

import hashlib

from sharc_core.common.deferred import torch


def derived_seed(seed: int, *axis: object) -> int:
    """Return a 63-bit seed that is a pure function of the run's seed and the axis."""
    text = "/".join(map(str, (seed, *axis)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *axis: object) -> torch.Generator:
    """Return a CPU generator for one axis of one run, e.g. `generator(3, "order", task, epoch)`.

    It is always on the CPU, so that draws do not depend on the device that computes.
    """
    return torch.Generator().manual_seed(derived_seed(seed, *axis))


class MinibatchSampler:
    """Draws minibatches of distinct indices uniformly, for one replica.

    It draws `block` minibatches at a time. Each is a uniform random subset of `size` indices by Floyd's
    algorithm (Bentley & Floyd 1987), which costs `size` vector operations per block instead of a permutation
    per minibatch.
    """

    def __init__(self, source: torch.Generator, population: int, size: int, block: int = 256):
        """population: number of stored samples. size: minibatch size, capped at the population.

        block: minibatches drawn at a time.
        """
        self.source = source
        self.population = population
        self.size = min(size, population)
        self.block = block

    def draw(self) -> torch.Tensor:
        """Return indices (block, size) int64 in [0, population), distinct within a row."""
        chosen = torch.empty(self.block, self.size, dtype=torch.int64)
        for column, top in enumerate(range(self.population - self.size, self.population)):
            pick = torch.randint(top + 1, (self.block,), generator=self.source)
            taken = (chosen[:, :column] == pick[:, None]).any(1)
            chosen[:, column] = torch.where(taken, top, pick)
        return chosen
