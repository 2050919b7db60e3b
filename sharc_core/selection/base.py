"""The interface of a selection: which samples the episodic memory stores."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from sharc_core.common.deferred import torch
from sharc_core.common.registry import Registry

SELECTIONS = Registry("selection", "sharc_core.selection")
Fitting = Callable[[torch.Tensor], tuple[int, int]]


class Candidates(Protocol):
    """n samples of a task that may be stored, numbered in the order of the visit (the last one is n - 1).

    labels (n,). batch_size: of training. allowance: what the task may spend, in the budget's unit.
    """

    labels: torch.Tensor
    batch_size: int
    allowance: int

    def costs(self) -> torch.Tensor:
        """Return what each sample costs in the budget's unit, (n,) int64."""

    def pooled(self) -> torch.Tensor:
        """Return the pooled feature vectors (n, K)."""

    def most(self) -> int:
        """Return an upper bound on how many of them fit."""


class Selection:
    """Traits that configuration checks and planning read, never the name.

    has_tasks: samples are chosen when a task has been learnt, and the memory knows which task they are of.
    False: they are admitted during training into one buffer for the whole stream.
    takes_unequal_costs: samples may differ in what they cost.
    takes_associative_bytes: the budget may charge the associative memory's state as well.
    needs_all_candidates: any sample of a task may be stored. False: only the last ones, as many as fit.
    """

    name: str
    has_tasks = True
    takes_unequal_costs = True
    takes_associative_bytes = True
    needs_all_candidates = True


class TaskSelection(Selection):
    """Chooses among a task's samples. Subclass it under `@SELECTIONS.register("name")`, implement `rank`."""

    def rank(self, candidates: Candidates) -> torch.Tensor:
        """Return candidates (m,) int64, the most wanted first; at most `candidates.most()` are needed."""
        raise NotImplementedError  # abstract

    def choose(self, candidates: Candidates, fitting: Fitting) -> tuple[torch.Tensor, int]:
        """Return the candidates to store, (m,) in the order of the visit, and what they leave to spend.

        fitting: returns how many of a ranking's first candidates fit, and what they leave. The longest such
        part of `rank` is stored.
        """
        ranked = self.rank(candidates)
        count, left = fitting(ranked)
        return ranked[:count].sort().values, left


class Placement(NamedTuple):
    """Where samples of different costs go: `moved` first, from slot to slot, then new ones into `slots`.

    slots: of each new sample, -1 for none. held: samples afterwards, which have the slots 0 to held - 1.
    """

    moved: dict[int, int]
    slots: list[int]
    held: int


class StreamSelection(Selection):
    """Chooses among all samples of the stream, for one replica, while it trains. Implement `slots`.

    takes_files: `placed` is implemented too, for encoded images in a budget of bytes, whose costs differ.
    """

    has_tasks = False
    takes_unequal_costs = False
    takes_associative_bytes = False
    takes_files = False

    def __init__(self, capacity: int, source: torch.Generator):
        """capacity: slots of the buffer. source: where the draws come from."""
        self.capacity = capacity
        self.source = source
        self.seen = 0

    def slots(self, count: int) -> list[int]:
        """Return the slot that each of the next `count` samples takes, or -1 for none; adds them to `seen`.

        As long as the buffer is not full, a sample takes the first free slot.
        """
        raise NotImplementedError  # abstract

    def placed(self, costs: list[int], available: int) -> Placement:
        """Return where the next samples go, with such costs, if all held ones may cost `available`."""
        raise NotImplementedError  # only with takes_files


def in_turn(by_class: Iterable[Iterable[int]]) -> Iterator[int]:
    """Yield the first candidate of every class, then the second of every class, and so on."""
    iterators = [iter(candidates) for candidates in by_class]
    while iterators:
        remaining = []
        for iterator in iterators:
            for candidate in iterator:
                yield candidate
                remaining.append(iterator)
                break
        iterators = remaining


def latest_first(labels: torch.Tensor) -> list[torch.Tensor]:
    """Return the candidates of each class in labels (n,), last visited first, classes in the same order."""
    candidates: dict[int, list[int]] = {}
    for number in range(len(labels) - 1, -1, -1):
        candidates.setdefault(int(labels[number]), []).append(number)
    return [torch.tensor(numbers) for numbers in candidates.values()]
