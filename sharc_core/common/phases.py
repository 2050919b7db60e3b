"""Seconds that the phases of a run take: saliency, writing, reading and others.

Code names its phase with `phase`, as a context or as a decorator, and `measured` collects the seconds. If
nobody measures, a phase costs less than a microsecond. Phases may be nested. A second belongs to the
innermost one, so the seconds of all phases add up to those of the run.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar

SALIENCY, WRITING, READING = "saliency", "writing", "reading"
STORING = "storing"  # choosing, encoding and decoding samples, without the associative memory
STEPS = "steps"  # gathering minibatches and updating the method
TESTING = "testing"
OTHER = "other"  # outside of every phase
PHASES = (SALIENCY, WRITING, READING, STORING, STEPS, TESTING, OTHER)


class _Clock:
    """Attributes elapsed time to the innermost open phase."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._open = [OTHER]
        self._read = read
        self._since = read()

    def begin(self, name: str) -> None:
        self._attribute()
        self._open.append(name)

    def end(self) -> None:
        self._attribute()
        self._open.pop()

    def _attribute(self) -> None:
        now = self._read()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now


_CLOCK: ContextVar[_Clock | None] = ContextVar("clock", default=None)


@contextmanager
def measured(cpu: bool = False) -> Iterator[dict[str, float]]:
    """Collect the seconds of every phase while the context is open.

    cpu: CPU seconds of the process instead of the clock's. The time of other work on the machine is not part
    of them, but such work makes them longer where it shares caches, memory or a core.
    Yields seconds by name of the phase, which are complete when the context is closed. An inner context
    collects on its own and its time counts for the phase of the outer one in which it is.
    """
    clock = _Clock(time.process_time if cpu else time.perf_counter)
    token = _CLOCK.set(clock)
    try:
        yield clock.seconds
    finally:
        clock.end()
        _CLOCK.reset(token)


class phase(ContextDecorator):
    """Attribute the time of a block or of a function's calls to one of PHASES."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> "phase":
        clock = _CLOCK.get()
        if clock is not None:
            clock.begin(self.name)
        return self

    def __exit__(self, *error: object) -> None:
        clock = _CLOCK.get()
        if clock is not None:
            clock.end()
