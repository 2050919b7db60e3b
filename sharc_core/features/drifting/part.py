"""The parts of drifting features. Each is a folder that one job extracts.

`start`: the test images before the stream. `train`: a seed's training images at the time of their visit, and
the running statistics after each task. `tests`: the test images after each task, for one number of passes.
`joint`: both for JOINT, whose stream is one shuffled task.
"""

import re
from dataclasses import dataclass

FEWEST = 256  # maps kept of each task at least, so that a slightly larger buffer needs no new extraction


@dataclass(frozen=True)
class Kept:
    """Which training maps of a task are kept: its last ones.

    samples: their number; None for all. full: keep more of them until they hold as many non-zero values as
    this number of full maps has values.
    """

    samples: int | None = FEWEST
    full: int = 0

    def __or__(self, other: "Kept") -> "Kept":
        """Return the smallest Kept that covers both."""
        if self.samples is None or other.samples is None:
            return Kept(None)
        return Kept(max(self.samples, other.samples), max(self.full, other.full))


@dataclass(frozen=True)
class Part:
    """One part. Fields that do not apply are None. view: of the seed. batch: size of the training batches."""

    kind: str
    seed: int | None = None
    view: int | None = None
    batch: int | None = None
    passes: int | None = None
    kept: Kept | None = None

    @property
    def name(self) -> str:
        """Name of the folder; parse() reads it."""
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
        """Return the part with a folder name. Raises ValueError for any other text."""
        pattern = r"(start|train|tests|joint)(?:-seed(\d+)-view(\d+)-batch(\d+))?"
        pattern += r"(?:-passes(\d))?(?:-(all)|-last(\d+))?(?:-full(\d+))?"
        match = re.fullmatch(pattern, name)
        if match is None:
            raise ValueError(f"{name!r} is not the name of a part")
        kind, seed, view, batch, passes, everything, last, full = match.groups()
        kept = Kept(None if everything else int(last), int(full or 0)) if everything or last else None
        texts = {"seed": seed, "view": view, "batch": batch, "passes": passes}
        numbers = {key: int(text) for key, text in texts.items() if text is not None}
        return cls(kind, **numbers, kept=kept)

    def source(self, kept: Kept) -> "Part":
        """Return the `train` part whose running statistics a `tests` part uses."""
        return Part("train", self.seed, self.view, self.batch, kept=kept)


START = Part("start")
