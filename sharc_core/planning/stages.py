"""Stages, which are groups of files that one job makes from finished cells or jobs, and their state."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharc_core.verification.comparison import outdated_stages, stage_keys


@dataclass(frozen=True)
class PlannedStage:
    """One rule that makes files of results.

    made_from: JSON-able; everything that the files depend on, except the files of earlier stages. after:
    names of the stages whose files it reads. sources: other files that it reads and that no stage makes.
    """

    name: str
    files: Sequence[str]
    made_from: Any
    after: Sequence[str] = ()
    sources: Sequence[str] = ()


class Stages:
    """The stages of one record, each after those whose files it reads. The last one makes the record."""

    def __init__(self, record: Path, stages: Sequence[PlannedStage]):
        self.record = record
        self.files = {stage.name: list(stage.files) for stage in stages}
        self._after = {stage.name: stage.after for stage in stages}
        self._sources = {stage.name: stage.sources for stage in stages}
        self.keys = stage_keys({stage.name: stage.made_from for stage in stages}, self._after)

    def outdated(self) -> set[str]:
        """Return the names of the stages whose files are missing, damaged or made from something else."""
        return outdated_stages(self.record, self.keys, self._after, self.files, self._sources)
