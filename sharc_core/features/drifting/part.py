"""The parts that drifting features are extracted in: each a folder and a job.

`start`: the test images before the stream. `train`: a seed's training images as they pass by, and the running
statistics after each task. `tests`: the test images after each task, for one number of passes. `joint`: all
of it for JOINT, whose stream is shuffled.
"""

import re
from dataclasses import dataclass

FEWEST = 256  # maps kept of every task at least: a little more than is needed now saves an extraction later


@dataclass(frozen=True)
class Kept:
    """Which training maps of a task are kept: its last ones, as many as `samples` says.

    samples: None for all. full: and as many as have the values of so many full maps that are not zero.
    """

    samples: int | None = FEWEST
    full: int = 0

    def __or__(self, other: "Kept") -> "Kept":
        """What holds both."""
        if self.samples is None or other.samples is None:
            return Kept(None)
        return Kept(max(self.samples, other.samples), max(self.full, other.full))


@dataclass(frozen=True)
class Part:
    """One part; what does not apply is None. view: what the seed trains on. batch: its size in training."""

    kind: str
    seed: int | None = None
    view: int | None = None
    batch: int | None = None
    passes: int | None = None
    kept: Kept | None = None

    @property
    def name(self) -> str:
        """Its folder; parse() reads it."""
        name = self.kind
        for key in ("seed", "view", "batch", "passes"):
            value = getattr(self, key)
            name += "" if value is None else f"-{key}{value}"
        if self.kept is not None:
            name += "-all" if self.kept.samples is None else f"-last{self.kept.samples}"
            name += f"-full{self.kept.full}" if self.kept.full else ""
        return name

    @classmethod
    def parse(cls, name: str) -> "Part":
        """The part of a folder's name. Raises ValueError for any other text."""
        pattern = r"(start|train|tests|joint)(?:-seed(\d+)-view(\d+)-batch(\d+))?"
        pattern += r"(?:-passes(\d))?(?:-(all)|-last(\d+))?(?:-full(\d+))?"
        found = re.fullmatch(pattern, name)
        if found is None:
            raise ValueError(f"{name!r} is no part")
        kind, seed, view, batch, passes, whole, last, full = found.groups()
        kept = Kept(None if whole else int(last), int(full or 0)) if whole or last else None
        texts = {"seed": seed, "view": view, "batch": batch, "passes": passes}
        numbers = {key: int(text) for key, text in texts.items() if text is not None}
        return cls(kind, **numbers, kept=kept)

    def source(self, kept: Kept) -> "Part":
        """The `train` part that a `tests` part has its running statistics from."""
        return Part("train", self.seed, self.view, self.batch, kept=kept)


START = Part("start")
