"""Compare finished results with a grid before any job runs.

A folder of results can be copied, renamed, merged from several machines, or lose `.snakemake`. So the
contents of the files, not Snakemake's metadata, decide which cells are trained and which tables are made
again. A cell's document names its settings, code and features (sharc_core.learning.documents). The record,
which is written last (sharc_core.verification.record), has hashes of what every table, figure and page was
made from, and the checksums of all files.
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
    """The seeds that a cell's document lacks, and why it does not match the grid.

    reason: None if the document does not exist or only lacks seeds.
    """

    missing: list[int]
    reason: str | None


class Comparison:
    """The documents of a grid's cells, compared with the grid. Each is read once, at its first use.

    cells: by the path of their document.
    """

    def __init__(self, layout: Layout, cells: Mapping[str, Cell]):
        self.layout, self.cells = layout, cells
        self.forced: set[str] = set()  # paths of documents to train again even if they match
        self._wanted: dict[str, Wanted] = {}
        self._standing: dict[str, Standing] = {}

    def wanted(self, path: str) -> Wanted:
        """Return what the grid wants of a cell."""
        if path not in self._wanted:
            cell = self.cells[path]
            code = code_hash(*cell.plugins)
            self._wanted[path] = Wanted(cell, code, self.layout.reads(cell))
        return self._wanted[path]

    def standing(self, path: str) -> Standing:
        """Return the standing of a cell's document at its first use."""
        if path not in self._standing:
            document, wanted = _read(path), self.wanted(path)
            missing = missing_seeds(document, wanted)
            reason = difference(document, wanted) if missing and document is not None else None
            self._standing[path] = Standing(missing, reason)
        return self._standing[path]

    def is_finished(self, path: str) -> bool:
        """Return whether a cell's document has all seeds that the grid wants."""
        return not self.standing(path).missing

    def to_train(self, path: str) -> Cell:
        """Return a cell with only the seeds that its job trains, which are the missing ones.

        If none is missing or the job is forced (`--forcerun`), the job trains all seeds.
        """
        missing = [] if path in self.forced else self.standing(path).missing
        return self.cells[path].model_copy(update={"seeds": missing}) if missing else self.cells[path]

    def unfinished(self) -> list[str]:
        """Return the paths of the documents that lack seeds."""
        return [path for path in self.cells if not self.is_finished(path)]

    def needed(self) -> set[Path]:
        """Return the folders of the features that the jobs of unfinished cells read."""
        return {folder for path in self.unfinished() for folder in self.layout.read_by([self.to_train(path)])}

    def notes(self) -> list[str]:
        """Return a line about the documents that do not match the grid; no line if all match."""
        reasons = {path: self.standing(path).reason for path in self.cells}
        outdated = [path for path, reason in reasons.items() if reason is not None]
        if not outdated:
            return []
        example, count = outdated[0], f"{len(outdated)} of {len(self.cells)} cells have documents"
        if len(outdated) == 1:
            count = f"1 of {len(self.cells)} cells has a document"
        return [f"note: {count} of another grid, trained again: {example}: {reasons[example]}"]


def _read(path: str) -> Document | None:
    """Read a document. Return None if there is none, and an empty document if it is unreadable."""
    if not Path(path).exists():
        return None
    try:
        return read_json(path)
    except UserError:
        return {}


# --- files that are made from documents ----------------------------------------------------------------


def stage_keys(made_from: Mapping[str, Any], after: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return by stage a hash of everything that its files are made from.

    made_from: by stage, its own content; each stage comes after those whose files it reads. after: by stage,
    the stages whose files it reads.
    """
    keys: dict[str, str] = {}
    for stage, content in made_from.items():
        keys[stage] = digest([content, [keys[before] for before in after.get(stage, ())]], 16)
    return keys


def outdated_stages(
    record: Path,
    keys: Mapping[str, str],
    after: Mapping[str, Sequence[str]],
    outputs: Mapping[str, Iterable[str]],
    sources: Mapping[str, Iterable[str]],
) -> set[str]:
    """Return the stages whose files have to be made again, according to the record.

    keys: of stage_keys. outputs: by stage, its files. sources: by stage, documents that it reads and no stage
    makes. The last stage makes the record itself. All stages are outdated if the record is missing, damaged
    or of another format.
    """
    recorded = _record(record)
    last = list(keys)[-1]
    if recorded is None:
        return set(keys)
    folder = record.parent
    outdated: set[str] = set()
    for stage, key in keys.items():
        paths = [*outputs[stage], *sources.get(stage, ())]
        is_same_key = recorded.stages.get(stage) == key
        is_same = is_same_key and all(_is_recorded(path, folder, recorded) for path in paths)
        if not is_same or outdated & set(after.get(stage, ())):
            outdated.add(stage)
    return outdated | {last} if outdated else outdated


def _record(path: Path) -> Record | None:
    """Read a record. Return None if it is missing, damaged or of another format."""
    if not path.exists():
        return None
    try:
        return read_record(path)
    except UserError:
        return None


def _is_recorded(path: str, folder: Path, record: Record) -> bool:
    """Return whether a file exists and has its recorded checksum. A record itself only has to exist."""
    file = Path(path)
    if file.parent == folder and is_record(file.name):
        return file.exists()
    expected = record.files.get(file.relative_to(folder).as_posix())
    if expected is None or not file.is_file() or file.stat().st_size != expected.bytes:
        return False
    return sha256_file(file) == expected.sha256
