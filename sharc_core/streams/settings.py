"""The settings of a stream: how the classes of a data set are split into tasks.

A data set of a grid file has these settings, its cells hold them, and make_stream builds a stream from them.
Code that needs the number of tasks or the size of a task reads it from these settings or from the stream.
"""

from fractions import Fraction
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sharc_core.common.settings import Settings


class StreamConfig(Settings):
    """How the classes of a data set become tasks of equally many classes.

    tasks: number of tasks. class_order_seed: seed of the shuffle that assigns classes to tasks, the same for
    all runs; None keeps the order of the labels.

    Another way to split classes (tasks of unequal size, an explicit class order) is a new field here, with
    its effect in `shares` and in split_classes. Leave the field out of `document` where it has its default,
    or documents on disk stop matching.
    """

    tasks: int = Field(ge=1)
    class_order_seed: int | None = None

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The share of all classes that each task holds. The shares add up to 1."""
        return (Fraction(1, self.tasks),) * self.tasks

    @property
    def document(self) -> dict[str, Any]:
        """The settings as keys of documents, jobs and hashes."""
        return {"tasks": self.tasks, "class_order_seed": self.class_order_seed}


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
