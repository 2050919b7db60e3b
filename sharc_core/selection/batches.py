"""Whole minibatches, as SHARC's published code fills its buffer."""

from sharc_core.common.deferred import torch
from sharc_core.selection.base import SELECTIONS, TaskSelection


@SELECTIONS.register("batches")
class Batches(TaskSelection):
    """Stores what `whole_batches` holds at the end of a task."""

    takes_associative_bytes = False

    def choose(self, candidates, fitting):
        """Return the candidates that are held, and what they leave, which a first batch can make negative."""
        costs = candidates.costs().tolist()
        held = whole_batches(costs, candidates.batch_size, candidates.allowance)
        return torch.tensor(held), candidates.allowance - sum(costs[number] for number in held)


def whole_batches(costs: list[int], batch_size: int, allowance: int) -> list[int]:
    """Return the positions that are held after a task, in memory order.

    costs: of the task's samples in the order of the visit. A minibatch is appended when all of it fits, and
    always when nothing is held yet. Otherwise the oldest k samples are dropped, where k is the smallest
    number that makes room for the *whole* batch, and the *first k* samples of the batch are appended (all of
    them if k exceeds its size). A batch for which no k is enough is not stored. What was dropped is
    subtracted, what was appended is added, and nothing is checked again, so the first batch of a task may
    exceed the allowance and a swap may waste room.
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
