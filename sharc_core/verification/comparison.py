"""What lies on disk against what a grid wants, before any job: documents decide, not Snakemake's notes.

A folder of results can be copied, renamed, put together from several machines, or lose `.snakemake`. So which
cells are trained, and which tables are made again, goes by what the files themselves say: a cell's document
names its settings, code and features (sharc_core.learning.documents); the record that is written last
(sharc_core.verification.record) names what every table, figure and page was made from, and all checksums.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, read_json, sha256_file
from sharc_core.grid.cell import Cell
from sharc_core.learning.documents import Document, Wanted, difference, missing_seeds
from sharc_core.provenance.code_hashes import code_hash
from sharc_core.stages.layout import Layout
from sharc_core.verification.record import Record, is_record, read_record


class Standing(NamedTuple):
    """How a cell's document stands: seeds to be trained, and why those that it holds are not the grid's."""

    missing: list[int]
    reason: str | None


class Comparison:
    """The documents of a grid's cells, each read when it is first asked for. cells: by their paths."""

    def __init__(self, layout: Layout, cells: Mapping[str, Cell]):
        self.layout, self.cells = layout, cells
        self.forced: set[str] = set()  # paths of documents that are to be trained anew, whatever they hold
        self._wanted: dict[str, Wanted] = {}
        self._standing: dict[str, Standing] = {}

    def wanted(self, path: str) -> Wanted:
        """What the grid wants of a cell."""
        if path not in self._wanted:
            cell = self.cells[path]
            code = code_hash(*cell.plugins)
            self._wanted[path] = Wanted(cell, code, self.layout.reads(cell))
        return self._wanted[path]

    def standing(self, path: str) -> Standing:
        """Of a cell's document, as it was when first asked for."""
        if path not in self._standing:
            document, wanted = _read(path), self.wanted(path)
            missing = missing_seeds(document, wanted)
            reason = difference(document, wanted) if missing and document is not None else None
            self._standing[path] = Standing(missing, reason)
        return self._standing[path]

    def is_finished(self, path: str) -> bool:
        """Whether a cell's document holds all that the grid wants of it."""
        return not self.standing(path).missing

    def to_train(self, path: str) -> Cell:
        """A cell with the seeds that its job trains: the missing ones.

        All where none is missing or the job is forced: it runs because it was asked for (`--forcerun`).
        """
        missing = [] if path in self.forced else self.standing(path).missing
        return self.cells[path].model_copy(update={"seeds": missing}) if missing else self.cells[path]

    def unfinished(self) -> list[str]:
        """Paths of the documents that lack something."""
        return [path for path in self.cells if not self.is_finished(path)]

    def needed(self) -> set[Path]:
        """Folders of the features that are still to be read."""
        return {folder for path in self.unfinished() for folder in self.layout.read_by([self.to_train(path)])}

    def notes(self) -> list[str]:
        """Lines about documents that are not the grid's and are trained again; none where there are none."""
        reasons = {path: self.standing(path).reason for path in self.cells}
        outdated = [path for path, reason in reasons.items() if reason is not None]
        if not outdated:
            return []
        first, several = outdated[0], f"{len(outdated)} of {len(self.cells)} cells have documents"
        if len(outdated) == 1:
            several = f"1 of {len(self.cells)} cells has a document"
        return [f"note: {several} of another grid, trained again: {first}: {reasons[first]}"]


def _read(path: str) -> Document | None:
    """A document; None where there is none, an empty one where it cannot be read."""
    if not Path(path).exists():
        return None
    try:
        return read_json(path)
    except UserError:
        return {}


# --- what is made of documents -------------------------------------------------------------------------


def stage_keys(made_from: Mapping[str, Any], after: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """By stage, a hash of all that its files are made from. after: the stages that it reads the files of.

    made_from: in an order in which each stage stands behind those that it comes after.
    """
    found: dict[str, str] = {}
    for stage, content in made_from.items():
        found[stage] = digest([content, [found[before] for before in after.get(stage, ())]], 16)
    return found


def outdated_stages(
    record: Path,
    keys: Mapping[str, str],
    after: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Iterable[str]],
    sources: Mapping[str, Iterable[str]],
) -> set[str]:
    """Stages whose files are not what the grid and the sources give, by the record of what made them.

    outputs: each stage's files. sources: by stage, documents that it reads and no stage makes. The last stage
    is the record itself. A damaged record, or one of older code, says nothing: all is made again.
    """
    known = _record(record)
    last = list(keys)[-1]
    if known is None:
        return set(keys)
    folder = record.parent
    found: set[str] = set()
    for stage, key in keys.items():
        paths = [*outputs[stage], *sources.get(stage, ())]
        is_same = known.stages.get(stage) == key and all(_is_recorded(path, folder, known) for path in paths)
        if not is_same or found & set(after.get(stage, ())):
            found.add(stage)
    return found | {last} if found else found


def _record(path: Path) -> Record | None:
    if not path.exists():
        return None
    try:
        return read_record(path)
    except UserError:
        return None


def _is_recorded(path: str, folder: Path, record: Record) -> bool:
    """Whether a file is there and is the one that the record names."""
    file = Path(path)
    if file.parent == folder and is_record(file.name):
        return file.exists()
    noted = record.files.get(file.relative_to(folder).as_posix())
    if noted is None or not file.is_file() or file.stat().st_size != noted.bytes:
        return False
    return sha256_file(file) == noted.sha256
