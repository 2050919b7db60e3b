"""Labels to tasks: which classes a task holds, and in which order each seed visits its samples.

Pure index arithmetic; nothing here touches an image or a feature.
"""

from dataclasses import dataclass

import torch

from sharc_core.common.errors import UserError
from sharc_core.common.seeds import generator
from sharc_core.streams.settings import StreamConfig


def split_classes(classes: int, config: StreamConfig) -> list[list[int]]:
    """Return the classes of each task, of labels 0 to `classes` - 1.

    Raises UserError when the tasks do not divide the classes or a task would hold fewer than two.
    """
    tasks = config.tasks
    if classes % tasks or classes // tasks < 2:
        valid = [t for t in range(1, classes // 2 + 1) if classes % t == 0]
        raise UserError(
            f"tasks: {tasks} does not divide {classes} classes into equal tasks of two or more; "
            f"valid: {', '.join(map(str, valid)) or 'none (at least two classes are needed)'}"
        )
    order = list(range(classes))
    if config.class_order_seed is not None:
        order = torch.randperm(classes, generator=generator(config.class_order_seed, "class_order")).tolist()
    size = classes // tasks
    return [order[i : i + size] for i in range(0, classes, size)]


@dataclass(frozen=True)
class Stream:
    """A sequence of tasks over one data set.

    classes_per_task: T lists of class labels.
    train: T index tensors (N_t,) into the training arrays, in data-set order.
    test: T index tensors into the test arrays.
    """

    classes_per_task: list[list[int]]
    train: list[torch.Tensor]
    test: list[torch.Tensor]

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return len(self.classes_per_task)

    @property
    def classes(self) -> int:
        """Number of classes of all tasks."""
        return sum(map(len, self.classes_per_task))

    def joint(self) -> "Stream":
        """Return the same classes as a single task (the upper baseline)."""
        return Stream(
            [sum(self.classes_per_task, [])],
            [torch.cat(self.train).sort().values],
            [torch.cat(self.test).sort().values],
        )

    def order(self, task: int, epoch: int, seeds: list[int]) -> torch.Tensor:
        """Return (R, N_t) training indices of a task in the order in which each of R seeds visits them."""
        index = self.train[task]
        shuffles = [torch.randperm(len(index), generator=generator(s, "order", task, epoch)) for s in seeds]
        return index[torch.stack(shuffles)]


def make_stream(
    train_labels: torch.Tensor, test_labels: torch.Tensor, classes: int, config: StreamConfig
) -> Stream:
    """Split a data set into a stream of tasks.

    train_labels (N,), test_labels (M,): int64, 0 to `classes` - 1. Raises UserError when the settings do not
    fit the classes, or a task has no image in one of the splits.
    """
    classes_per_task = split_classes(classes, config)

    def split(labels: torch.Tensor) -> list[torch.Tensor]:
        return [torch.isin(labels, torch.tensor(c)).nonzero().flatten() for c in classes_per_task]

    stream = Stream(classes_per_task, split(train_labels), split(test_labels))
    for name, parts in (("training", stream.train), ("test", stream.test)):
        empty = [t + 1 for t, part in enumerate(parts) if not len(part)]
        if empty:
            raise UserError(f"task {empty[0]} has no {name} image: every class needs some in both splits")
    return stream
