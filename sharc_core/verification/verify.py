"""`python -m sharc_core verify`: are results what their record says, do their matrices give their tables?

Needs the results' folder alone: its record names every file's checksum and who reports which cell. The
record itself is not signed: of an edit that changes the record too, only what is made again tells.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, read_json, sha256_file
from sharc_core.common.integrity import REMEDY, check_files
from sharc_core.grid.loading import load_grid
from sharc_core.grid.models import config_hash
from sharc_core.grid.unroll import cells as unrolled
from sharc_core.learning.documents import differing, read_document
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import ROOT, features_hash
from sharc_core.report.tables import write_all_tables
from sharc_core.results.published import load_published
from sharc_core.results.runs import read_runs, runs_table, write_runs
from sharc_core.stages.layout import Layout
from sharc_core.studies.base import STUDIES, Results, Roots
from sharc_core.studies.registered import backbones_of_runs
from sharc_core.studies.rows import read_rows
from sharc_core.verification.differences import first_difference
from sharc_core.verification.record import (
    GRID,
    Record,
    grid_table_code,
    is_record,
    made,
    read_record,
    record_name,
)

PUBLISHED = ROOT / "workflow" / "paper" / "paper_results.csv"
# Where the files of a grid's record and of the record of a study lie. Other files there belong to no record.
PLACES = ("matrices/*/*/*.json", "tables/*", "figures/*", "backbones/*")
STUDY_PLACES = ("{study}/*/*/*.csv", "tables/{study}.*", "figures/{study}_*")


class Verdict:
    """problems: by file, what is wrong with it. notes: what may explain it. checked: what was found right."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.notes: list[str] = []
        self.checked: list[str] = []

    def add(self, kind: str, name: str, detail: str = "") -> None:
        """A problem; a file is told once, with all that is known about it."""
        told = self.problems.get(name)
        if told is None:
            self.problems[name] = f"{kind}: {name}" + (f": {detail}" if detail else "")
        elif detail:
            self.problems[name] = f"{told}; {detail}"


def verify(folder: Path | str, data_dir: Path | str | None = None, published: Path = PUBLISHED) -> Verdict:
    """Check a results_dir. data_dir: hash prepared data, weights and features there, too.

    Raises UserError when there is no record or a damaged one.
    """
    folder, verdict = Path(folder), Verdict()
    records = _records(folder)
    for record in records:
        _check_files(folder, record, verdict)
        of_others = {name for other in records if other is not record for name in other.files}
        _check_tables(folder, record, published, verdict, of_others)
        if data_dir is not None:
            _check_inputs(record, Path(data_dir), verdict)
    _check_extra(folder, records, verdict)
    return verdict


def recorded_data_dir(folder: Path | str) -> str:
    """The data_dir of the grid that made the results. Raises UserError."""
    return str(_records(Path(folder))[0].config.get("data_dir", "data"))


def _records(folder: Path) -> list[Record]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of results")
    names = sorted(path.name for path in folder.glob("provenance*.json") if is_record(path.name))
    if not names:
        near = sorted(
            {str(path.parent) for path in folder.glob("*/provenance*.json") if is_record(path.name)}
        )
        hint = f"name one of {', '.join(near)}" if near else "run the grid to its end, or name another folder"
        raise UserError(f"{folder / record_name(GRID)} is missing: {hint}")
    records = [read_record(folder / name) for name in names]
    for name, record in zip(names, records, strict=True):
        if record_name(record.kind) != name:
            raise UserError(f"{folder / name} is the record of {record.kind!r}: get the right file again")
    return records


def _check_files(folder: Path, record: Record, verdict: Verdict) -> None:
    for name, noted in record.files.items():
        path = folder / name
        if not path.is_file():
            verdict.add("missing", name)
        elif (size := path.stat().st_size) != noted.bytes:
            verdict.add("altered", name, f"{size:,} bytes instead of {noted.bytes:,}")
        elif sha256_file(path) != noted.sha256:
            verdict.add("altered", name, "its SHA-256 is not the recorded one")
    verdict.checked.append(f"{len(record.files)} files have the recorded checksums")


def _check_extra(folder: Path, records: list[Record], verdict: Verdict) -> None:
    known = {name for record in records for name in record.files}
    kinds = [record.kind for record in records]
    patterns = [pattern for kind in kinds for pattern in _places(kind)]
    sources = ("matrices/", *(f"{kind}/" for kind in kinds if kind != GRID))
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if name not in known and path.is_file() and not path.name.startswith("."):
                what = "no table is made from it" if name.startswith(sources) else "not recorded"
                verdict.add("extra", name, f"{what}: delete it, or run the grid that has it")
                known.add(name)


def _places(kind: str) -> list[str]:
    return [*PLACES] if kind == GRID else [pattern.format(study=kind) for pattern in STUDY_PLACES]


# --- tables ----------------------------------------------------------------------------------------


def _check_tables(
    folder: Path, record: Record, published: Path, verdict: Verdict, of_others: set[str]
) -> None:
    """Make runs.csv and tables again and compare them, byte for byte.

    of_others: files of other records. The grid's has those of studies that its report reads.
    """
    own = record_name(record.kind)
    if not _has_own_hash(record):
        verdict.add("altered", own, "config_hash is not that of config")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        try:
            rows, code = _make_again(folder, record, published, out, verdict)
        except (UserError, AssertionError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split()).split("; this is a defect")[0]
            verdict.add("unchecked", f"tables of the {record.kind}", f"cannot be made again: {reason}")
            return
        if lineage(rows, record.config_hash) != record.origin:
            verdict.add("altered", own, "origin is not that of the runs")
        again = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.is_file())
        differing = [name for name in again if _differs(folder / name, out / name, name, verdict)]
    tables = {name for name in record.files if name.startswith("tables/")} - set(again)
    for name in sorted(tables - of_others if record.kind == GRID else tables):
        verdict.add("differs", name, "no such table is made")
        differing.append(name)
    sources = "matrices" if record.kind == GRID else f"files of the {record.kind} study"
    verdict.checked.append(
        f"{len(again)} tables are what {record.cells} {sources} give ({record.runs} rows), byte for byte"
    )
    if differing:
        verdict.notes += _other_code(record, code, published)


def _has_own_hash(record: Record) -> bool:
    try:
        return config_hash(record.config) == record.config_hash
    except (AttributeError, TypeError, ValueError):  # no grid's keys and values
        return False


def _make_again(
    folder: Path, record: Record, published: Path, out: Path, verdict: Verdict
) -> tuple[pd.DataFrame, Roots]:
    """Write what the rules write, into `out`.

    Returns the rows that have their origin, and roots of the code that made the tables.
    """
    if record.kind != GRID:
        kind = STUDIES.get(record.kind)
        study = kind(kind.Settings.model_validate(record.settings or record.config.get(record.kind, {})))
        rows = read_rows(study, [folder / name for name in record.rows], list(record.rows.values()))
        study.write_tables(Results(record.config_hash, rows=rows), out / "tables")
        return rows, study.table_code()
    entries = record.entries
    documents = [read_document(folder / name, entry.seeds, entry.key) for name, entry in entries.items()]
    _check_settings(record, documents, verdict)
    write_runs(runs_table(documents, [entry.members for entry in entries.values()]), out / "runs.csv")
    runs, config = read_runs(out / "runs.csv"), record.config
    write_all_tables(
        runs, load_published(published), out / "tables", record.studies, record.config_hash, config
    )
    verdict.notes += _other_inputs(record, documents)
    return runs, grid_table_code(config, backbones_of_runs(runs))


def _check_settings(record: Record, documents: list[dict], verdict: Verdict) -> None:
    """Documents against the recorded grid, unrolled anew: their settings are its cells' settings."""
    try:
        grid = load_grid(record.config)
        layout = Layout(grid)
        cells = {layout.cell(cell).relative_to(layout.results).as_posix(): cell for cell in unrolled(grid)}
    except UserError as error:  # a method, say, that is not known here
        verdict.notes.append(f"note: settings were not compared with the recorded grid: {error}")
        return
    for name, document in zip(record.entries, documents, strict=True):
        if name not in cells:
            verdict.add("extra", name, "the recorded grid has no such cell")
        elif told := differing(document["cell"], cells[name].settings):
            verdict.add("altered", name, f"it is not the recorded grid's: {told}")
        elif document["seeds"] != cells[name].seeds:
            verdict.add("altered", name, f"seeds {document['seeds']} instead of {cells[name].seeds}")
    for name in sorted(set(cells) - set(record.entries)):
        verdict.add("missing", name, "the recorded grid has this cell")


def _differs(found: Path, again: Path, name: str, verdict: Verdict) -> bool:
    """Whether a file is not what was made again; told with the place."""
    if not found.is_file():
        verdict.add("missing", name)
        return False
    if found.read_bytes() == again.read_bytes():
        return False
    ours, theirs = (path.read_text(encoding="utf-8", errors="replace") for path in (found, again))
    verdict.add("differs", name, first_difference(ours, theirs, is_csv=name.endswith(".csv")))
    return True


def _other_inputs(record: Record, documents: list[dict]) -> list[str]:
    """Lines about cells that ran with other inputs than data_dir held when the grid was done.

    That happens when data_dir was made anew on another machine: a folder's name does not know its bits.
    """
    features, counts = record.features, dict.fromkeys(("data", "weights", "features"), 0)
    for document in documents:
        cell, trainings = document["cell"], document["trainings"]
        known = (record.data.get(cell["dataset"]), record.weights.get(cell["backbone"]))
        for what, inputs in zip(("data", "weights"), known, strict=True):
            right = None if inputs is None else inputs.sha256
            counts[what] += any(training["origin"][what] != right for training in trainings)
        read = {item for training in trainings for item in training["features"].items()}
        counts["features"] += any(features[f"features/{name}"] != hashed for name, hashed in read)
    cells = len(documents)
    return [
        f"note: {n} of {cells} cells ran with other {what} than recorded" for what, n in counts.items() if n
    ]


def _other_code(record: Record, code: Roots, published: Path) -> list[str]:
    """A line about what of the code that verifies is not what made the tables; none if nothing is."""
    then, now = record.made, made(*code)
    facts = {"commit": [made.commit + (" with changes" if made.dirty else "") for made in (then, now)]}
    facts["code"] = [then.code, now.code]
    for name in (*then.versions, *now.versions):
        facts[name] = [made.versions.get(name, "none") for made in (then, now)]
    told = [f"{name} {one}, here {other}" for name, (one, other) in facts.items() if one != other]
    if record.published is not None and record.published != sha256_file(published):
        told.append("other published numbers")
    if not told:
        return []
    return [f"note: the tables were made by other code ({'; '.join(told)}): that alone can be the difference"]


# --- data, weights, features -----------------------------------------------------------------------


def _check_inputs(record: Record, data_dir: Path, verdict: Verdict) -> None:
    """Hash everything that the results were computed from."""
    if not data_dir.is_dir():
        raise UserError(f"data_dir {data_dir} is not a folder here: give its place as --data FOLDER")
    prepared = [*record.data.values(), *(w.pretraining for w in record.weights.values() if w.pretraining)]
    for data in prepared:
        _check_folder(data_dir / data.folder, _has(lambda m: digest(m, 64), data.sha256), verdict)
    for folder, noted in record.features.items():
        _check_folder(data_dir / folder, _has(features_hash, noted), verdict)
    files = [(weights, weights.file) for weights in record.weights.values() if weights.file is not None]
    for weights, file in files:
        path = data_dir / file if weights.card else Path(file)
        if not path.is_file():
            verdict.add("missing", str(path))
        elif sha256_file(path) != weights.sha256:
            verdict.add("altered", str(path), "its SHA-256 is not the recorded one")
    count = len(prepared) + len(record.features) + len(files)
    verdict.checked.append(f"{count} inputs in {data_dir} have the recorded checksums")


def _has(hashed: Callable[[dict[str, Any]], str], recorded: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a manifest has the recorded hash."""
    return lambda manifest: hashed(manifest) == recorded


def _check_folder(folder: Path, is_recorded: Callable[[dict[str, Any]], bool], verdict: Verdict) -> None:
    """A folder's manifest against the record, its files against the manifest."""
    try:
        manifest = read_json(folder / "manifest.json")
        if not is_recorded(manifest):
            raise UserError("its manifest is not the recorded one")
        check_files(folder, manifest["files"], verify=True)
    except UserError as error:
        kind = "altered" if (folder / "manifest.json").exists() else "missing"
        verdict.add(kind, str(folder), str(error).removesuffix(f": {REMEDY}"))
    except (KeyError, TypeError, AttributeError):
        verdict.add("altered", str(folder), "its manifest is damaged")
