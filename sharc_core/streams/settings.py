"""The settings of a stream: how the classes of a data set are split into tasks.

A data set of a grid file has these settings, its cells hold them, and make_stream builds a stream from them.
Code that needs the number of tasks or the size of a task reads it from these settings or from the stream.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from sharc_core.common.joined_names import split_name
from sharc_core.common.settings import Settings

PER_RUN = "per_run"
Count = Annotated[int, Field(ge=1, le=100_000)]
Label = int | str  # the number of a class, or its name
Tasks = (
    Count
    | Annotated[list[Count], Field(min_length=1)]
    | Annotated[list[Annotated[list[Label], Field(min_length=1)]], Field(min_length=1)]
)
# Keys newer than the format of documents. With their defaults they are left out, so older documents match.
NEWER = {"class_order": None, "order": "tasks", "blurry": None, "labels": "joined"}


class StreamConfig(Settings):
    """How the classes of a data set become tasks.

    tasks: number of tasks of equally many classes, or the number of classes of each task, or the classes of
    each task. class_order_seed: seed of the shuffle that assigns classes to tasks, the same for all runs, or
    PER_RUN: each run shuffles with its own seed; None keeps the order of the labels. class_order: all classes
    in the order in which tasks take them. order: how training samples are assigned to tasks, by class
    ("tasks"), all shuffled and cut into equal parts ("iid"), or by class except a share (`blurry`) that comes
    from other tasks ("blurry"). Test images are always split by class. labels: "same" means that classes of
    the same name in several parts of a sequence are one class; a task is then a part with all classes.

    Another way to split classes is a new field here, with its effect in `sizes` and in split_classes. Add it
    to NEWER, or documents on disk stop matching.
    """

    tasks: Tasks
    class_order_seed: int | Literal["per_run"] | None = None
    class_order: Annotated[list[Label], Field(min_length=1)] | None = None
    order: Literal["tasks", "iid", "blurry"] = "tasks"
    blurry: float | None = Field(default=None, gt=0, lt=1)
    labels: Literal["joined", "same"] = "joined"

    @field_validator("tasks", mode="before")
    @classmethod
    def _sizes_or_classes(cls, value: Any) -> Any:
        if value == []:
            raise ValueError("the list is empty: give the size or the classes of at least one task")
        if isinstance(value, list) and 0 < sum(isinstance(item, list) for item in value) < len(value):
            raise ValueError("give the size of every task or the classes of every task, not both")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "StreamConfig":
        listed = self.listed_classes
        for key, classes in (("tasks", sum(listed or [], [])), ("class_order", self.class_order or [])):
            repeated = [label for i, label in enumerate(classes) if label in classes[:i]]
            if repeated:
                raise ValueError(f"{key}: class {repeated[0]!r} is listed twice: remove one")
        orders = [key for key in ("class_order", "class_order_seed") if getattr(self, key) is not None]
        if len(orders) > 1:
            raise ValueError("class_order and class_order_seed exclude each other: give one of them")
        if orders and listed is not None:
            raise ValueError(f"tasks lists the classes of each task, so {orders[0]} has no effect: remove it")
        if orders and self.labels == "same":
            raise ValueError(
                f"{orders[0]} has no effect with labels same, whose tasks are the parts: remove it"
            )
        if (self.order == "blurry") != (self.blurry is not None):
            raise ValueError("order blurry and blurry, the share of other tasks' samples, need each other")
        if self.order != "tasks" and self.tasks == 1:
            raise ValueError(f"order {self.order} has no effect with a single task: remove it")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        return {k: v for k, v in values.items() if k not in NEWER or v != NEWER[k]}

    @property
    def listed_classes(self) -> list[list[Label]] | None:
        """The classes of each task where the settings list them."""
        tasks: Any = self.tasks
        return tasks if isinstance(tasks, list) and isinstance(tasks[0], list) else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of each task, a number in proportion to its classes: the number itself where it is given."""
        if isinstance(self.tasks, int):
            return (1,) * self.tasks
        return tuple(len(task) if isinstance(task, list) else task for task in self.tasks)

    @property
    def count(self) -> int:
        """The number of tasks T."""
        return len(self.sizes)

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The share of all classes that each task holds. The shares add up to 1."""
        return tuple(Fraction(size, sum(self.sizes)) for size in self.sizes)

    @property
    def weights(self) -> tuple[int, ...] | None:
        """The weight of each task in shared budgets, its number of classes; None where all are equal."""
        is_equal = self.order == "iid" or len(set(self.sizes)) == 1
        return None if is_equal else self.sizes

    @property
    def is_per_run(self) -> bool:
        """Whether each run has a stream of its own."""
        return self.class_order_seed == PER_RUN

    def of_run(self, seed: int) -> "StreamConfig":
        """Return the settings of the run with a seed: those of all runs, unless each has its own order."""
        return self.model_copy(update={"class_order_seed": seed}) if self.is_per_run else self

    @property
    def document(self) -> dict[str, Any]:
        """The settings as keys of documents, jobs and hashes."""
        return self.model_dump()


class WithStream(Settings):
    """Base of settings with a field `stream`. A dump has the keys of the stream in place of the field."""

    @model_validator(mode="before")
    @classmethod
    def _collect_stream(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "stream" in values:
            return values
        stream = {key: values[key] for key in StreamConfig.model_fields if key in values}
        return {key: value for key, value in values.items() if key not in stream} | {"stream": stream}

    @model_serializer(mode="wrap")
    def _spread_stream(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in dump(self).items():
            if key == "stream":
                values |= self.stream.document  # type: ignore[attr-defined]  # a field of every subclass
            else:
                values[key] = value
        return values


def class_names(names: Sequence[str], config: StreamConfig) -> list[str]:
    """Return the names of the classes that a head distinguishes, of the names of a data set's labels."""
    if config.labels == "joined":
        return list(names)
    return list(dict.fromkeys(split_name(name)[1] for name in names))
