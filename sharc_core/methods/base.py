"""The interface of a method: traits, hooks per task and minibatch, and `predict`. One short file each.

A method decides how the learner is updated. How samples are stored, SHARC included, is the memory's part
(sharc_core.memory), and no method depends on it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from sharc_core.common.deferred import torch
from sharc_core.common.flops import FlopCount
from sharc_core.common.registry import Registry
from sharc_core.common.settings import Settings as BaseSettings
from sharc_core.heads import Batch, Head
from sharc_core.memory.episodic import EpisodicMemory

METHODS = Registry("method", "sharc_core.methods")


@dataclass(frozen=True)
class Task:
    """The task that a method is about to learn or has just learnt.

    number: its position in the stream, counted from 0. tasks: T, the length of the stream. classes: labels
    of this task. seen: labels of this and all earlier tasks, in the order of the stream. total: C, the number
    of classes of the whole stream.
    """

    number: int
    tasks: int
    classes: tuple[int, ...]
    seen: tuple[int, ...]
    total: int


class Method:
    """Base of all methods: subclass it under `@METHODS.register("name")` in a file of this package.

    Write a method as if for one run. The replica axis R (one replica per seed) is carried by the head, the
    batches and the memory; only code that is random or conditional per run has to mind it (self.generators
    holds one generator per replica; conditions are (R,) tensors).

    Traits are class attributes. Grid checks, tables, figures and contract tests read them:

    title: display name; None for the registered name in upper case.
    heads: values of the grid's `head.kind` that the method can be run with.
    trains_head: whether it learns by changing the parameters of `self.head`. A closed-form classifier sets
        False and overrides `predict`; its head is neither checked for divergence nor counted in bytes.
    uses_memory: whether it replays. If not, the grid gives it no buffer and no SHARC variant.
    needs_logits: whether the memory must store the logits of each sample.
    fills_at_task_end: whether the memory must be filled at the end of a task, whatever `memory.selection` is.
    replays_current_task: whether its replay must include samples of the current task, as a reservoir's does.
    replays_tasks_if: settings under which it calls `memory.tasks()`, which a reservoir cannot answer.
    reviews_tasks: whether it sees a task's samples once more before `end_task`, see `review`.
    selections: values of the grid's `memory.selection` that it can be run with; empty for any.
    uses_training: whether it trains as the grid's block `training` says; if not, that is not tuned for it.
    joint: whether it trains on all tasks at once, shuffled together.
    order_matters: whether predictions depend on the order of the samples (beyond rounding).
    baseline: whether figures draw it as a level line to compare with.
    advances_together: whether the seeds of a cell are trained side by side. If not, they run one after the
        other, because what one of them keeps can take gigabytes.
    passes: forward passes of a training batch through the backbone in the published code of the method, each
        of which moves batch statistics under `backbone.batch_norm: drifting`.
    """

    name: str
    settings: Any  # of this class's own Settings
    title: str | None = None
    heads: tuple[str, ...] = ("linear", "mlp", "cosine")
    trains_head = True
    uses_memory = True
    needs_logits = False
    fills_at_task_end = False
    replays_current_task = False
    replays_tasks_if: ClassVar[dict[str, Any]] = {}
    reviews_tasks = False
    selections: tuple[str, ...] = ()
    uses_training = True
    joint = False
    order_matters = True
    baseline = False
    advances_together = True
    passes = 2

    class Settings(BaseSettings):
        """The method's own settings, under `method_settings.<name>`."""

    def __init__(
        self,
        head: Head,
        settings: BaseSettings,
        lr: float,
        replay_batch_size: int,
        generators: list[torch.Generator],
    ):
        self.head = head
        self.settings = settings
        self.lr = lr
        self.replay_batch_size = replay_batch_size
        self.generators = generators

    @classmethod
    def misfit(cls, settings: Any, replay_batch_size: int) -> str | None:
        """Return why these settings do not fit the replay batch size, and the remedy; None if they do."""
        return None

    def begin_task(self, task: Task, memory: EpisodicMemory) -> None:
        """Prepare for a task. `memory` holds the earlier tasks and is ready for replay."""

    def observe(self, batch: Batch, memory: EpisodicMemory) -> None:
        """Learn from one minibatch of the current task, x (R, B, D) and y (R, B)."""
        raise NotImplementedError  # abstract

    def review(self, batch: Batch) -> None:
        """See one minibatch of the task again, with the head as it is at the end, if `reviews_tasks`."""

    def end_task(self, task: Task, memory: EpisodicMemory) -> None:
        """Finish a task, before `memory` stores samples of it and before the evaluation."""

    def filled(self, memory: EpisodicMemory) -> None:
        """Use the memory as it is after a task, before the evaluation."""

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores (R, B, C) of pooled features x (R, B, D), the higher the likelier.

        This is the only way in which a method is evaluated. A class that was never seen may score -inf; NaN
        means that the training diverged.
        """
        return self.head.logits(x)

    @property
    def trained_heads(self) -> list[Head]:
        """The heads that training changes, whose weights are aligned at the end of a task."""
        return [self.head] if self.trains_head else []

    @property
    def repeats_steps(self) -> bool:
        """Whether `observe` is a step of SGD, which `training.steps_per_batch` repeats."""
        return self.trains_head and self.uses_training

    @property
    def replicas(self) -> int:
        """R, the number of runs that advance together."""
        return self.head.replicas

    @property
    def flops(self) -> FlopCount:
        """The counter of the run's operations.

        The head adds what its calls cost. A method adds the matrix products that it takes itself:
        `self.flops.product(rows, inner, columns)`.
        """
        return self.head.flops

    @property
    def predicts_with_copy(self) -> bool:
        """Whether predictions come from a copy of the network whose backbone saw no training batch."""
        return False

    @property
    def extra_bytes(self) -> int:
        """Bytes per run that the method keeps besides head and memory: model copies, class means."""
        return 0

    @property
    def learner_bytes(self) -> int:
        """Bytes per run that the method keeps besides the memory."""
        return (self.head.bytes_per_replica if self.trains_head else 0) + self.extra_bytes


def traits(name: str) -> type[Method]:
    """Return the class of a method, to read its traits, or the base class for a name that is not registered.

    Results may name a method whose file is no longer there.
    """
    return METHODS.get(name) if name in METHODS.names() else Method
