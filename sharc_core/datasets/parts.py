"""The interface of a data source that is made of several others, each with classes and images of its own."""

from typing import Protocol, runtime_checkable

from sharc_core.datasets.base import Source


@runtime_checkable
class OfParts(Protocol):
    """A source that other code has to see as its parts: their code makes it, and each can be a task."""

    @property
    def parts(self) -> list[Source]:
        """Return the sources of the parts, in the order of their labels."""
