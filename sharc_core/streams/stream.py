"""Labels to tasks: which classes a task holds, and in which order each seed visits its samples.

Pure index arithmetic; nothing here touches an image or a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sharc_core.common.deferred import torch
from sharc_core.common.errors import UserError, shown
from sharc_core.common.joined_names import split_name
from sharc_core.common.registry import nearest
from sharc_core.common.seeds import generator
from sharc_core.streams.settings import Label, StreamConfig, class_names


def split_classes(classes: int | Sequence[str], config: StreamConfig) -> list[list[int]]:
    """Return the classes of each task, of labels 0 to C - 1.

    classes: names of the labels, or their number C (the names are then 0 to C - 1). With labels `same` the
    classes are those of class_names, all in every task. Raises UserError when the settings do not fit.
    """
    names = list(map(str, range(classes))) if isinstance(classes, int) else list(classes)
    if len(names) < 2:
        raise UserError(f"the data set has {len(names)} class: a stream needs at least two")
    if config.labels == "same":
        return _all_in_each(names, config)
    listed = config.listed_classes
    if listed is not None:
        tasks = [[_label(label, names, "tasks") for label in task] for task in listed]
        _check_complete(sum(tasks, []), names, "tasks")
        return tasks
    order = list(range(len(names)))
    if config.class_order is not None:
        order = [_label(label, names, "class_order") for label in config.class_order]
        _check_complete(order, names, "class_order")
    elif config.class_order_seed is not None:
        order = torch.randperm(len(names), generator=generator(_seed(config), "class_order")).tolist()
    sizes = _sizes(len(names), config)
    ends = [sum(sizes[: task + 1]) for task in range(len(sizes))]
    return [order[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _sizes(classes: int, config: StreamConfig) -> list[int]:
    """Return the number of classes of each task. Raises UserError when they do not add up."""
    if isinstance(config.tasks, int):
        if classes % config.tasks:
            valid = [t for t in range(1, classes + 1) if classes % t == 0]
            raise UserError(
                f"tasks: {config.tasks} does not divide {classes} classes into equal tasks; "
                f"valid: {', '.join(map(str, valid))}, or a list of sizes that add up to {classes}"
            )
        return [classes // config.tasks] * config.tasks
    if sum(config.sizes) != classes:
        raise UserError(
            f"tasks: {shown(list(config.sizes))} adds up to {sum(config.sizes)}, but the data set has "
            f"{classes} classes: give every class to one task"
        )
    return list(config.sizes)


def _all_in_each(names: list[str], config: StreamConfig) -> list[list[int]]:
    """Return all classes for each domain. Raises UserError unless every domain has the same classes."""
    domains: dict[str, set[str]] = {}
    for name in names:
        part, own = split_name(name)
        domains.setdefault(part, set()).add(own)
    if len(domains) < 2:
        raise UserError("labels: same needs a data set of several parts: use source sequence, or remove it")
    classes = class_names(names, config)
    for part, there in domains.items():
        if missing := [name for name in classes if name not in there]:
            raise UserError(
                f"labels: same needs the same class names in every part, but {part} has no class "
                f"{shown(missing[0])}: use labels joined"
            )
    if config.tasks != len(domains):
        raise UserError(f"tasks: with labels same each of the {len(domains)} parts is a task: remove tasks")
    if len(classes) < 2:
        raise UserError("labels: same needs parts of at least two classes")
    return [list(range(len(classes))) for _ in domains]


def _label(label: Label, names: list[str], key: str) -> int:
    """Return the number of a class that is given by number or name. Raises UserError if there is none."""
    if isinstance(label, int) and 0 <= label < len(names):
        if str(label) in names and names.index(str(label)) != label:
            raise UserError(
                f"{key}: {label} is the number of class {shown(names[label])} and the name of another class: "
                "write names, in quotes"
            )
        return label
    if isinstance(label, str) and label in names:
        return names.index(label)
    raise UserError(
        f"{key}: the data set has no class {shown(label)}{nearest(label, names)}; give names, or label "
        f"numbers from 0 to {len(names) - 1}"
    )


def _check_complete(labels: list[int], names: list[str], key: str) -> None:
    """Raise UserError unless each class is there once."""
    for label, name in enumerate(names):
        if labels.count(label) != 1:
            problem = "lacks" if label not in labels else "has twice"
            raise UserError(
                f"{key} {problem} class {shown(name)}: list each of the {len(names)} classes once, by its "
                "name or its number"
            )


def _seed(config: StreamConfig) -> int:
    """Return the seed of the split; 0 where classes keep the order of the labels."""
    seed = config.class_order_seed
    if isinstance(seed, str):
        raise AssertionError("a stream per run needs the run's seed: StreamConfig.of_run")
    return seed or 0


@dataclass(frozen=True)
class Stream:
    """A sequence of tasks over one data set.

    classes_per_task: T lists of class labels, by which the test images are split.
    train: T index tensors (N_t,) into the training arrays, in data-set order.
    test: T index tensors into the test arrays.
    trained: T lists of the classes of the training samples, where they are others (order iid or blurry).
    """

    classes_per_task: list[list[int]]
    train: list[torch.Tensor]
    test: list[torch.Tensor]
    trained: list[list[int]] | None = None

    @property
    def tasks(self) -> int:
        """Number of tasks T."""
        return len(self.classes_per_task)

    @property
    def classes(self) -> int:
        """Number of classes of all tasks."""
        return len(_unique(self.classes_per_task))

    def classes_trained(self, task: int) -> list[int]:
        """Return the classes of a task's training samples."""
        return (self.trained or self.classes_per_task)[task]

    def classes_seen(self, task: int) -> list[int]:
        """Return the classes of the training samples of a task and all earlier ones, each once."""
        return _unique((self.trained or self.classes_per_task)[: task + 1])

    def joint(self) -> "Stream":
        """Return the same classes as a single task (the upper baseline)."""
        return Stream(
            [_unique(self.classes_per_task)],
            [torch.cat(self.train).sort().values],
            [torch.cat(self.test).sort().values],
        )

    def order(self, task: int, epoch: int, seeds: list[int]) -> torch.Tensor:
        """Return (R, N_t) training indices of a task in the order in which each of R seeds visits them."""
        index = self.train[task]
        shuffles = [torch.randperm(len(index), generator=generator(s, "order", task, epoch)) for s in seeds]
        return index[torch.stack(shuffles)]


def _unique(classes_per_task: Sequence[Sequence[int]]) -> list[int]:
    return list(dict.fromkeys(label for classes in classes_per_task for label in classes))


def make_stream(
    train_labels: torch.Tensor,
    test_labels: torch.Tensor,
    classes: int | Sequence[str],
    config: StreamConfig,
) -> Stream:
    """Split a data set into a stream of tasks.

    train_labels (N,), test_labels (M,): int64, 0 to C - 1. classes: as for split_classes. Raises UserError
    when the settings do not fit the classes, or a task has no image in one of the splits.
    """
    classes_per_task = split_classes(classes, config)
    chosen = classes_per_task
    if config.labels == "same" and not isinstance(classes, int):
        parts = [split_name(name)[0] for name in classes]
        chosen = [[n for n, part in enumerate(parts) if part == one] for one in dict.fromkeys(parts)]

    def split(labels: torch.Tensor) -> list[torch.Tensor]:
        return [torch.isin(labels, torch.tensor(c)).nonzero().flatten() for c in chosen]

    stream = Stream(classes_per_task, split(train_labels), split(test_labels))
    for name, indices in (("training", stream.train), ("test", stream.test)):
        empty = [t + 1 for t, index in enumerate(indices) if not len(index)]
        if empty:
            raise UserError(f"task {empty[0]} has no {name} image: every class needs some in both splits")
    if config.order == "tasks":
        return stream
    draws = generator(_seed(config), "composition")
    train = (
        _iid(stream.train, draws) if config.order == "iid" else _blurry(stream.train, config.blurry, draws)
    )
    if not all(map(len, train)):
        raise UserError(f"order {config.order} leaves a task without training images: give fewer tasks")
    own = torch.arange(len(classes) if not isinstance(classes, int) else classes)
    own = class_of_labels(own, classes, config)
    return replace(stream, train=train, trained=[own[train_labels[i]].unique().tolist() for i in train])


def _iid(train: list[torch.Tensor], draws: torch.Generator) -> list[torch.Tensor]:
    """Return all training samples, shuffled once and cut into as many parts of equal length (within one)."""
    index = torch.cat(train)
    shuffled = index[torch.randperm(len(index), generator=draws)]
    return [part.sort().values for part in shuffled.tensor_split(len(train))]


def _blurry(train: list[torch.Tensor], share: float | None, draws: torch.Generator) -> list[torch.Tensor]:
    """Return the tasks after each gave a share of its samples to others and took as many of theirs.

    A task keeps its length, and each sample is in one task. A sample stays only where the other tasks give
    too few in exchange: one task of more than half of the stream.
    """
    shuffled = [index[torch.randperm(len(index), generator=draws)] for index in train]
    moved = [round(len(index) * (share or 0.0)) for index in shuffled]
    pool = torch.cat([index[:count] for index, count in zip(shuffled, moved, strict=True)])
    home = torch.repeat_interleave(torch.tensor(moved))  # the task that gave each sample of the pool
    taken = torch.randperm(len(pool), generator=draws)  # place n of the pool gets sample taken[n]
    for place in (home[taken] == home).nonzero().flatten().tolist():
        source = home[taken]
        if source[place] != home[place]:  # an earlier exchange has moved it
            continue
        able = ((home != source[place]) & (source != home[place])).nonzero().flatten()
        if len(able):
            other = able[torch.randint(len(able), (1,), generator=draws)]
            taken[[place, int(other)]] = taken[[int(other), place]]
    pieces = pool[taken].split(moved)
    return [
        torch.cat([index[count:], piece]).sort().values
        for index, count, piece in zip(shuffled, moved, pieces, strict=True)
    ]


def class_of_labels(labels: torch.Tensor, classes: int | Sequence[str], config: StreamConfig) -> torch.Tensor:
    """Return the class of each label, (N,) int64: the label itself, unless parts share their classes.

    A negative label, which is that of no task, stays.
    """
    if config.labels == "joined" or isinstance(classes, int):
        return labels
    own = class_names(classes, config)
    numbers = torch.tensor([own.index(split_name(name)[1]) for name in classes])
    return torch.where(labels < 0, labels, numbers[labels])


def streamed(features: Any, config: StreamConfig, seed: int) -> tuple[Any, Stream]:
    """Return features with the labels that a head learns, and the stream of the run with a seed.

    features: a dataclass with train_labels (N,), test_labels (M,) and the names of the labels in `classes`.
    """
    config = config.of_run(seed)
    stream = make_stream(features.train_labels, features.test_labels, features.classes, config)
    if config.labels == "joined":
        return features, stream
    own = {
        name: class_of_labels(getattr(features, name), features.classes, config)
        for name in ("train_labels", "test_labels")
    }
    return replace(features, **own, classes=class_names(features.classes, config)), stream
