"""Which of a task's samples a memory keeps: pure index arithmetic on what each sample costs."""

import torch


def whole_batches(costs: list[int], batch_size: int, allowance: int) -> list[int]:
    """Positions that are held after a task, in memory order, as SHARC's published code fills its buffer.

    costs: of the task's samples in the order of the visit. A minibatch is appended when it fits as a whole,
    and always when nothing is held yet. Otherwise the smallest number k of the oldest samples is dropped
    whose release makes room for the *whole* batch, and the *first k* samples of the batch are appended (all
    of it where k exceeds its size); a batch for which no k is enough is not stored. What was dropped is
    subtracted and what was appended is added, and nothing is checked again: the first batch of a task may
    exceed the allowance, and a swap may waste room.
    """
    held: list[int] = []
    spent = 0
    for start in range(0, len(costs), batch_size):
        batch = list(range(start, min(start + batch_size, len(costs))))
        needed = sum(costs[position] for position in batch)
        if not held or spent + needed <= allowance:
            held += batch
            spent += needed
            continue
        released = 0
        for k, oldest in enumerate(held, 1):
            released += costs[oldest]
            if spent + needed - released <= allowance:
                spent += sum(costs[position] for position in batch[:k]) - released
                held = held[k:] + batch[:k]
                break
    return held


class Reservoir:
    """Reservoir sampling (Vitter 1985, algorithm R) for one replica: every visit is kept equally likely."""

    def __init__(self, capacity: int, source: torch.Generator):
        """capacity: slots. source: where the draws come from."""
        self.capacity = capacity
        self.source = source
        self.seen = 0

    def slots(self, count: int) -> list[int]:
        """The slot that each of the next `count` samples takes, or -1 for none; int64 arithmetic."""
        places = torch.rand(count, generator=self.source, dtype=torch.float64)
        taken = []
        for place in places.tolist():
            self.seen += 1
            slot = self.seen - 1 if self.seen <= self.capacity else int(place * self.seen)
            taken.append(slot if slot < self.capacity else -1)
        return taken
