"""Reservoir sampling over the stream, as mammoth fills its buffer."""

import heapq

from sharc_core.common.deferred import torch
from sharc_core.selection.base import SELECTIONS, Placement, StreamSelection


@SELECTIONS.register("reservoir")
class Reservoir(StreamSelection):
    """Keeps every visit with the same probability (Vitter 1985, algorithm R).

    `placed` does so where samples differ in their costs, so that their number is not known beforehand: every
    visit draws a number from [0, 1), and those with the smallest numbers are held, as many as the budget
    holds (a threshold for a budget of memory, Ting 2017, arXiv 1708.04970). A dropped sample never fits
    again, because the numbers before its own only become more.
    """

    takes_files = True

    def __init__(self, capacity, source):
        """For the arguments see StreamSelection."""
        super().__init__(capacity, source)
        self._held: list[tuple[float, int, int]] = []  # heap of (-draw, visit, cost), the largest draw first
        self._threshold = 1.0  # the smallest draw that was dropped
        self._spent = 0
        self._slots: dict[int, int] = {}  # by visit

    def slots(self, count):
        """Return the slot that each of the next `count` samples takes, or -1 for none."""
        # in float64 times int64, so that long streams do not round
        places = torch.rand(count, generator=self.source, dtype=torch.float64)
        taken = []
        for place in places.tolist():
            self.seen += 1
            slot = self.seen - 1 if self.seen <= self.capacity else int(place * self.seen)
            taken.append(slot if slot < self.capacity else -1)
        return taken

    def placed(self, costs, available):
        """Return where the next samples go; the largest draws are dropped until the others fit."""
        before, first, dropped = len(self._held), self.seen, set()
        draws = torch.rand(len(costs), generator=self.source, dtype=torch.float64)
        for draw, cost in zip(draws.tolist(), costs, strict=True):
            visit, self.seen = self.seen, self.seen + 1
            if draw >= self._threshold:
                dropped.add(visit)
                continue
            heapq.heappush(self._held, (-draw, visit, cost))
            self._spent += cost
            while self._spent > available:
                largest, last, freed = heapq.heappop(self._held)
                self._threshold, self._spent = -largest, self._spent - freed
                dropped.add(last)
        free = {self._slots.pop(visit) for visit in dropped if visit < first}
        return self._place([v for v in range(first, self.seen) if v not in dropped], free, before, first)

    def _place(self, new: list[int], free: set[int], before: int, first: int) -> Placement:
        """Give `new` visits slots, so that the held ones have the first slots.

        free: slots of dropped visits, of the first `before` ones. first: the minibatch's first visit.
        """
        held = len(self._held)
        targets = iter([*sorted(slot for slot in free if slot < held), *range(before, held)])
        beyond = {slot: visit for visit, slot in self._slots.items() if slot >= held} if held < before else {}
        moved = {slot: next(targets) for slot in sorted(beyond)}
        self._slots |= {beyond[slot]: target for slot, target in moved.items()}
        self._slots |= {visit: next(targets) for visit in new}
        return Placement(moved, [self._slots.get(visit, -1) for visit in range(first, self.seen)], held)
