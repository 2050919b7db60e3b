"""Budgets: how many samples per task fit, whatever a sample costs.

A buffer of m slots is m / T slots for each of T tasks. In `floats` (the paper) that buys (m / T) K h w
values; in `bytes`, what m full samples of the same method would take, every byte of them.
"""

from dataclasses import dataclass

from sharc_core.encoding import sample_bytes
from sharc_core.errors import UserError


@dataclass(frozen=True)
class Budget:
    """unit: "slots", "floats" or "bytes". buffer: m. tasks: T. shape: (K, h, w) of a map.

    logits: how many logits are stored beside a sample (0 or C).
    """

    unit: str
    buffer: int
    tasks: int
    shape: tuple[int, int, int]
    logits: int = 0

    @property
    def total_bytes(self) -> int:
        """What m full samples take: the allowance of a `bytes` budget."""
        return self.buffer * sample_bytes(self.shape, self.shape[0], self.logits)

    def samples_per_task(self, keep: int, am_bytes=None) -> int:
        """Samples of K' = `keep` channels that fit in one task's share.

        am_bytes: function from a number of samples in all to the associative memory's state in bytes,
        when that is charged to the budget too. Raises UserError when nothing fits.
        """
        if self.unit == "slots":
            return self.buffer // self.tasks
        if self.unit == "floats":
            return self.buffer * self.shape[0] // (self.tasks * keep)
        am_bytes = am_bytes or (lambda samples: 0)
        each = sample_bytes(self.shape, keep, self.logits)

        def fits(count: int) -> bool:
            return count * self.tasks * each + am_bytes(count * self.tasks) <= self.total_bytes

        low, high = 0, self.total_bytes // (each * self.tasks)
        while low < high:  # the largest count that fits; the cost rises with the count
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        if low < 1 or not fits(low):
            raise UserError(
                f"a budget of {self.total_bytes:,} bytes (buffer {self.buffer}) holds no sample per task: "
                f"one per task takes {self.tasks * each:,} bytes and the associative memory "
                f"{am_bytes(self.tasks):,}; "
                "raise the buffer or set budget.count_associative_memory to false"
            )
        return low
