"""Budgets: how many of a task's samples fit, given what each of them costs.

A buffer of m slots is shared among T tasks, in proportion to their numbers of classes. In the unit `floats`
(the paper) it buys m K h w values; in `nonzero` (the published code) as many values that are not zero, so
zeros after a ReLU are free; in `bytes` as many bytes as m full float16 samples of the same method take. In
`total_bytes` m itself is a number of bytes, which everything that the run keeps besides the backbone shares:
head, the method's own state, samples and associative memory. How bytes are counted: byte_count.py.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError
from sharc_core.common.formats import bytes_text
from sharc_core.memory.budget_units import IN_BYTES
from sharc_core.memory.byte_count import sample_bytes, slot_bytes
from sharc_core.representations import Representation
from sharc_core.representations.sparse_maps import Float16


@dataclass(frozen=True)
class Budget:
    """What a cell may keep.

    unit: see budget_units.Unit. buffer: m. tasks: T. shape: (K, h, w) of a map. logits:
    number of logits stored with each sample (0 or C). representation: how samples are stored; None: float16
    maps. counted: samples differ in how many channels they keep. dense: samples are stored completed (every
    `read` except per_task), so in bytes each of them costs a whole map, however few channels were salient.
    split: shares of the tasks, any positive numbers, one per task; None for shares by `weights`, the tasks'
    numbers of classes (None if all are equal). carry: what a task leaves is added to the next task's share.
    am_bytes: returns the bytes of the associative memory's state for a number of samples, when the budget is
    charged for it. learner_bytes: of head and method, which `total_bytes` is charged for.
    """

    unit: str
    buffer: int
    tasks: int
    shape: tuple[int, int, int]
    logits: int = 0
    representation: Representation | None = None
    counted: bool = False
    dense: bool = False
    split: tuple[float, ...] | None = None
    weights: tuple[int, ...] | None = None
    carry: bool = False
    am_bytes: Callable[[int], int] | None = None
    learner_bytes: int = 0

    @cached_property
    def _stored_as(self) -> Representation:
        return self.representation or Float16(self.shape)

    @property
    def codec(self) -> Hashable:
        """The codec of the stored images if the unit counts the bytes of their files, else None."""
        return self._stored_as.codec if self.unit in IN_BYTES else None

    @property
    def total(self) -> int:
        """The budget of all tasks in its unit.

        Slots are samples, `floats` are counted in kept channels (as each of them holds equally many values).
        Of `total_bytes` it is what head and method leave for samples, which may be negative.
        """
        if self.unit == "total_bytes":
            return self.buffer - self.learner_bytes
        positions = math.prod(self.shape[1:])
        per_slot = {
            "slots": 1,
            "floats": self.shape[0] * positions // self._stored_as.values_per_channel,
            "nonzero": self.shape[0] * positions,
            "bytes": slot_bytes(self.shape, self.logits),
        }
        return self.buffer * per_slot[self.unit]

    def allowance(self, task: int) -> int:
        """Return what task number `task` (from 0) may spend, in the budget's unit.

        Without a split shares are rounded down, unless what is left is carried over; then they add up to the
        total. The published code divides slots, so in `nonzero` a share is worth a whole number of slots. In
        bytes each task pays its part of what all stored samples share.
        """
        shared = self._part(self._shared_bytes, task)
        if self.split is None and not self.carry:
            is_slots = self.unit == "nonzero"
            share = self.slots(task) * math.prod(self.shape) if is_slots else self._floor(self.total, task)
            return share - shared
        return self._part(self.total, task) - shared

    def slots(self, task: int) -> int:
        """Return a task's share of the buffer's slots by its number of classes, rounded down."""
        return self._floor(self.buffer, task)

    def _floor(self, amount: int, task: int) -> int:
        weights = self.weights or (1,) * self.tasks
        return amount * weights[task] // sum(weights)

    @property
    def _shared_bytes(self) -> int:
        return self._stored_as.shared_bytes if self.unit in IN_BYTES else 0

    def _part(self, amount: int, task: int) -> int:
        """Return a task's part of an integer by the split; the parts of all tasks add up to the integer."""
        shares = self.split or self.weights or (1.0,) * self.tasks
        before, through = sum(shares[:task]), sum(shares[: task + 1])
        return round(amount * through / sum(shares)) - round(amount * before / sum(shares))

    def available(self, task: int, left: int = 0) -> int:
        """Return a task's allowance plus, if it is carried over, what earlier tasks left."""
        return self.allowance(task) + (left if self.carry else 0)

    def costs(self, kept: torch.Tensor, completed: torch.Tensor | None = None) -> torch.Tensor:
        """Return what samples cost in the budget's unit, (n,) int64.

        kept (n,): channels that each sample keeps (unit `nonzero`: its values that are not zero; with a
        `codec`: the bytes of its file). completed (n,) bool: which samples are stored completed if `dense`;
        None: all of them. If only some are, every sample stores its number of channels.
        """
        if self.unit == "slots":
            return torch.ones_like(kept)
        if self.unit in ("floats", "nonzero"):
            return kept
        counted = self.counted
        if self.dense:
            full = torch.full_like(kept, self.shape[0])
            counted = completed is not None and not bool(completed.all())
            kept = full if completed is None else torch.where(completed, full, kept)
        by_channels = {keep: self._sample_bytes(keep, counted) for keep in kept.unique().tolist()}
        return kept.clone().apply_(by_channels.__getitem__)

    def _sample_bytes(self, keep: int, counted: bool) -> int:
        return sample_bytes(self._stored_as, keep, self.logits, counted)

    def capacity(self, keep: int) -> int:
        """Return how many samples of `keep` channels fit into one buffer for all tasks (`reservoir`)."""
        return self.for_samples // int(self.costs(torch.tensor([keep]))[0])

    @property
    def for_samples(self) -> int:
        """What one buffer for all tasks has for its samples, without what all of them share."""
        return max(0, self.total - self._shared_bytes)

    def most(
        self, task: int, kept: torch.Tensor, left: int = 0, completed: torch.Tensor | None = None
    ) -> int:
        """Return an upper bound on `fitting`, whichever of the samples are wanted; arguments as there."""
        cheapest = min(int(self.costs(kept).min()), int(self.costs(kept, completed).min()))
        return len(kept) if cheapest < 1 else min(len(kept), self.available(task, left) // cheapest)

    def fitting(
        self,
        task: int,
        kept: torch.Tensor,
        stored: int,
        left: int = 0,
        completed: torch.Tensor | None = None,
    ) -> tuple[int, int]:
        """Return how many of a task's samples fit, and what they leave of its allowance.

        kept, completed: (n,) as for `costs`, the most wanted sample first. stored: samples of earlier tasks.
        left: what earlier tasks left (used if `carry`). Raises UserError if not one sample fits.
        """
        allowance = self.available(task, left)
        spent = self.costs(kept, completed).cumsum(0)
        if self.dense and completed is not None:  # as long as all are completed, none stores its channels
            all_completed = completed.long().cumprod(0).bool()
            spent = torch.where(all_completed, self.costs(kept).cumsum(0), spent)
        if self.am_bytes is not None:
            # each task pays for its own patterns, and its part of what the empty state takes
            before = self.am_bytes(stored) - self._part(self.am_bytes(0), task)
            grown = [self.am_bytes(stored + n) - before for n in range(1, len(kept) + 1)]
            spent = spent + torch.tensor(grown)
        count = int((spent <= allowance).sum())
        if count == 0:
            raise UserError(self._nothing_fits(task, allowance, int(spent[0])))
        return count, allowance - int(spent[count - 1])

    def check(self, keep: int) -> None:
        """Raise UserError if a task's share does not hold one sample of `keep` channels, zeros included."""
        keep *= math.prod(self.shape[1:]) if self.unit == "nonzero" else 1
        if self.total < 0:
            raise UserError(
                f"a budget of {bytes_text(self.buffer)} does not hold the head and what the method keeps, "
                f"which take {self.learner_bytes:,} bytes: raise the buffer"
            )
        left = 0
        for task in range(self.tasks):
            _, rest = self.fitting(task, torch.tensor([keep]), stored=0, left=left)
            left = rest if self.carry else 0

    def _nothing_fits(self, task: int, allowance: int, one: int) -> str:
        units = {"slots": "slots", "floats": "channels of values", "nonzero": "non-zero values"}
        unit = units.get(self.unit, self.unit)
        remedy = "raise the buffer"
        if self.am_bytes is not None:
            remedy += " or set budget.count_associative_memory to false"
        buffer = f"a buffer of {self.buffer} ({self.total:,} {unit})"
        if self.unit == "total_bytes":
            buffer = (
                f"a budget of {bytes_text(self.buffer)}, of which head and method take "
                f"{self.learner_bytes:,} bytes,"
            )
            unit = "bytes"
        shared = f" after its part of the {self._shared_bytes:,} that all samples share"
        return (
            f"{buffer} holds no sample of task {task + 1} of "
            f"{self.tasks}: its share is {allowance:,} {unit}{shared if self._shared_bytes else ''}, one "
            f"sample takes {one:,}"
            f"{' with the associative memory' if self.am_bytes is not None else ''}; {remedy}"
        )
