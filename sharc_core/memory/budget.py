"""Budgets: how many of a task's samples fit, whatever a sample costs.

A buffer of m slots is shared among T tasks. In `floats` (the paper) it buys m K h w values; in `nonzero`
(the published code) as many that are not zero, what a ReLU left at zero being free; in `bytes`, what m
full float16 samples of the same method would take, every byte of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sharc_core.common.errors import UserError
from sharc_core.representations.encoding import sample_bytes


@dataclass(frozen=True)
class Budget:
    """What a cell may keep.

    unit: "slots", "floats", "nonzero" or "bytes". buffer: m. tasks: T. shape: (K, h, w) of a map. logits:
    how many are stored beside a sample (0 or C). storage: type of the stored values. counted: samples
    differ in how many channels they keep. dense: samples are kept completed (every `read` but per_task),
    so in bytes one costs a whole map however few channels were salient. split: shares of the tasks, any
    positive numbers, one per task; None for equal ones. carry: what a task leaves goes to the next.
    am_bytes: the associative memory's state in bytes for a number of samples, when that is charged too.
    """

    unit: str
    buffer: int
    tasks: int
    shape: tuple[int, int, int]
    logits: int = 0
    storage: str = "float16"
    counted: bool = False
    dense: bool = False
    split: tuple[float, ...] | None = None
    carry: bool = False
    am_bytes: Callable[[int], int] | None = None

    @property
    def total(self) -> int:
        """The whole allowance in its unit: samples, channels (floats / (h w)), non-zero values or bytes."""
        per_slot = {
            "slots": 1,
            "floats": self.shape[0],
            "nonzero": math.prod(self.shape),
            "bytes": sample_bytes(self.shape, self.shape[0], self.logits),
        }
        return self.buffer * per_slot[self.unit]

    def allowance(self, task: int) -> int:
        """What task number `task` (from 0) may spend, in the budget's unit.

        Equal shares are rounded down, unless what is left is carried over: then they add up to the whole.
        The published code divides slots: in `nonzero` an equal share is worth floor(m / T) of them.
        """
        if self.split is None and not self.carry:
            slots = self.buffer // self.tasks
            return slots * math.prod(self.shape) if self.unit == "nonzero" else self.total // self.tasks
        return self._part(self.total, task)

    def _part(self, whole: int, task: int) -> int:
        """A task's part of a whole number by the split; all parts add up to the whole."""
        shares = self.split or (1.0,) * self.tasks
        before, through = sum(shares[:task]), sum(shares[: task + 1])
        return round(whole * through / sum(shares)) - round(whole * before / sum(shares))

    def available(self, task: int, left: int = 0) -> int:
        """A task's allowance with what earlier tasks left over, if that is carried."""
        return self.allowance(task) + (left if self.carry else 0)

    def costs(self, kept: torch.Tensor, completed: torch.Tensor | None = None) -> torch.Tensor:
        """Cost of samples that keep `kept` (n,) channels (`nonzero`: values), in the budget's unit, int64.

        completed (n,) bool: which samples are kept completed where `dense`; None: all of them. Where only
        some are, every one needs its number of channels.
        """
        if self.unit == "slots":
            return torch.ones_like(kept)
        if self.unit in ("floats", "nonzero"):
            return kept
        counted = self.counted
        if self.dense:
            whole = torch.full_like(kept, self.shape[0])
            counted = completed is not None and not bool(completed.all())
            kept = whole if completed is None else torch.where(completed, whole, kept)
        known = {k: self._bytes(k, counted) for k in kept.unique().tolist()}
        return kept.clone().apply_(known.__getitem__)

    def _bytes(self, keep: int, counted: bool) -> int:
        return sample_bytes(self.shape, keep, self.logits, self.storage, counted)

    def capacity(self, keep: int) -> int:
        """Samples of `keep` channels that the whole budget holds (`reservoir`: one buffer for all tasks)."""
        return self.total // int(self.costs(torch.tensor([keep]))[0])

    def fitting(
        self,
        task: int,
        kept: torch.Tensor,
        stored: int,
        left: int = 0,
        completed: torch.Tensor | None = None,
    ) -> tuple[int, int]:
        """How many samples of a task fit, and what they leave of its allowance.

        kept: (n,) kept channels of the candidates (`nonzero`: values that are not zero in them), the most
        wanted first. stored: samples of earlier tasks. left: what earlier tasks left over (used when
        `carry`). completed: see `costs`. Raises UserError for none.
        """
        allowance = self.available(task, left)
        spent = self.costs(kept, completed).cumsum(0)
        if self.dense and completed is not None:  # the first of them alone need no numbers of channels
            alike = completed.long().cumprod(0).bool()
            spent = torch.where(alike, self.costs(kept).cumsum(0), spent)
        if self.am_bytes is not None:
            # each task pays for its own patterns, and its part of what the state costs when empty
            before = self.am_bytes(stored) - self._part(self.am_bytes(0), task)
            grown = [self.am_bytes(stored + n) - before for n in range(1, len(kept) + 1)]
            spent = spent + torch.tensor(grown)
        count = int((spent <= allowance).sum())
        if count == 0:
            raise UserError(self._nothing_fits(task, allowance, int(spent[0])))
        return count, allowance - int(spent[count - 1])

    def check(self, keep: int) -> None:
        """Raises UserError when a task's share does not hold one sample of `keep` channels, zeros or not."""
        keep *= math.prod(self.shape[1:]) if self.unit == "nonzero" else 1
        left = 0
        for task in range(self.tasks):
            one = self.fitting(task, torch.tensor([keep]), stored=0, left=left)
            left = one[1] if self.carry else 0

    def _nothing_fits(self, task: int, allowance: int, one: int) -> str:
        units = {"slots": "slots", "floats": "channels of values", "nonzero": "non-zero values"}
        unit = units.get(self.unit, self.unit)
        remedy = "raise the buffer"
        if self.am_bytes is not None:
            remedy += " or set budget.count_associative_memory to false"
        return (
            f"a buffer of {self.buffer} ({self.total:,} {unit}) holds no sample of task {task + 1} of "
            f"{self.tasks}: its share is {allowance:,} {unit}, one sample takes {one:,}"
            f"{' with the associative memory' if self.am_bytes is not None else ''}; {remedy}"
        )
