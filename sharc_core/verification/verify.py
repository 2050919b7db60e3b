"""Verify results: compare files with their record, and tables with tables recomputed from the matrices.

`python -m sharc_core verify` calls this module. It needs only the results folder, because the record names
the checksum of every file and which part of the grid reports a cell. The record is not signed, so an edit
that also updates the record is found only by recomputing the tables.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharc_core.common.deferred import pandas as pd
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
# Patterns of the files that the record of a grid or of a study names. Other files that match are "extra".
PLACES = ("matrices/*/*/*.json", "tables/*", "figures/*", "backbones/*")
STUDY_PLACES = ("{study}/*/*/*.csv", "tables/{study}.*", "figures/{study}_*")


class Verdict:
    """The result of a verification.

    problems: by file, one line about what is wrong. notes: lines that may explain the problems. checked:
    lines about what was found correct.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.notes: list[str] = []
        self.checked: list[str] = []

    def add(self, kind: str, name: str, detail: str = "") -> None:
        """Record a problem, merging details when the file already has one."""
        line = self.problems.get(name)
        if line is None:
            self.problems[name] = f"{kind}: {name}" + (f": {detail}" if detail else "")
        elif detail:
            self.problems[name] = f"{line}; {detail}"


def verify(folder: Path | str, data_dir: Path | str | None = None, published: Path = PUBLISHED) -> Verdict:
    """Check a results_dir and return the verdict.

    data_dir: if given, also hash its prepared data, weights and features. published: file of the paper's
    numbers. Raises UserError if there is no record or one is damaged.
    """
    folder, verdict = Path(folder), Verdict()
    records = _records(folder)
    for record in records:
        _check_files(folder, record, verdict)
        other_files = {name for other in records if other is not record for name in other.files}
        _check_tables(folder, record, published, verdict, other_files)
        if data_dir is not None:
            _check_inputs(record, Path(data_dir), verdict)
    _check_extra(folder, records, verdict)
    return verdict


def recorded_data_dir(folder: Path | str) -> str:
    """Return the data_dir of the grid that made the results. Raises UserError as `verify` does."""
    return str(_records(Path(folder))[0].config.get("data_dir", "data"))


def _records(folder: Path) -> list[Record]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder of results")
    names = sorted(path.name for path in folder.glob("provenance*.json") if is_record(path.name))
    if not names:
        subfolders = sorted(
            {str(path.parent) for path in folder.glob("*/provenance*.json") if is_record(path.name)}
        )
        hint = "run the grid to its end, or name another folder"
        if subfolders:
            hint = f"name one of {', '.join(subfolders)}"
        raise UserError(f"{folder / record_name(GRID)} is missing: {hint}")
    records = [read_record(folder / name) for name in names]
    for name, record in zip(names, records, strict=True):
        if record_name(record.kind) != name:
            raise UserError(f"{folder / name} is the record of {record.kind!r}: restore the right file")
    return records


def _check_files(folder: Path, record: Record, verdict: Verdict) -> None:
    """Compare the sizes and checksums of all recorded files."""
    for name, expected in record.files.items():
        path = folder / name
        if not path.is_file():
            verdict.add("missing", name)
        elif (size := path.stat().st_size) != expected.bytes:
            verdict.add("altered", name, f"{size:,} bytes instead of {expected.bytes:,}")
        elif sha256_file(path) != expected.sha256:
            verdict.add("altered", name, "its SHA-256 is not the recorded one")
    verdict.checked.append(f"{len(record.files)} files have the recorded checksums")


def _check_extra(folder: Path, records: list[Record], verdict: Verdict) -> None:
    """Report files that no record names although they lie where recorded files do."""
    known = {name for record in records for name in record.files}
    kinds = [record.kind for record in records]
    patterns = [pattern for kind in kinds for pattern in _places(kind)]
    sources = ("matrices/", *(f"{kind}/" for kind in kinds if kind != GRID))
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if name not in known and path.is_file() and not path.name.startswith("."):
                reason = "no table is made from it" if name.startswith(sources) else "not recorded"
                verdict.add("extra", name, f"{reason}: delete it, or run the grid that has it")
                known.add(name)


def _places(kind: str) -> list[str]:
    return [*PLACES] if kind == GRID else [pattern.format(study=kind) for pattern in STUDY_PLACES]


# --- tables ----------------------------------------------------------------------------------------


def _check_tables(
    folder: Path, record: Record, published: Path, verdict: Verdict, other_files: set[str]
) -> None:
    """Recompute runs.csv and the tables, and compare them byte for byte.

    other_files: files that other records name. The grid's record also names tables of the studies that its
    report reads; these are recomputed for the study's record.
    """
    record_file = record_name(record.kind)
    if not _has_own_hash(record):
        verdict.add("altered", record_file, "config_hash does not match config")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        try:
            rows, code = _recompute(folder, record, published, out, verdict)
        except (UserError, AssertionError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split()).split("; this is a defect")[0]
            verdict.add("unchecked", f"tables of the {record.kind}", f"cannot be recomputed: {reason}")
            return
        if lineage(rows, record.config_hash) != record.origin:
            verdict.add("altered", record_file, "origin does not match the runs")
        names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.is_file())
        different = [name for name in names if _differs(folder / name, out / name, name, verdict)]
    tables = {name for name in record.files if name.startswith("tables/")} - set(names)
    for name in sorted(tables - other_files if record.kind == GRID else tables):
        verdict.add("differs", name, "the recomputed tables do not include it")
        different.append(name)
    sources = "matrices" if record.kind == GRID else f"files of the {record.kind} study"
    verdict.checked.append(
        f"{len(names)} tables equal those recomputed from {record.cells} {sources} ({record.runs} rows), "
        "byte for byte"
    )
    if different:
        verdict.notes += _other_code(record, code, published)


def _has_own_hash(record: Record) -> bool:
    """Return whether a record's config_hash is the hash of its config."""
    try:
        return config_hash(record.config) == record.config_hash
    except (AttributeError, TypeError, ValueError):  # the keys or values are not those of a grid
        return False


def _recompute(
    folder: Path, record: Record, published: Path, out: Path, verdict: Verdict
) -> tuple[pd.DataFrame, Roots]:
    """Write runs.csv and the tables into `out`, as the rules do.

    Return the rows, which contain their origin, and the roots of the code that makes the tables.
    """
    if record.kind != GRID:
        study_class = STUDIES.get(record.kind)
        settings = record.settings or record.config.get(record.kind, {})
        study = study_class(study_class.Settings.model_validate(settings))
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
    """Unroll the recorded grid again, and compare the settings and seeds of the documents with its cells."""
    try:
        grid = load_grid(record.config)
        layout = Layout(grid)
        cells = {layout.cell(cell).relative_to(layout.results).as_posix(): cell for cell in unrolled(grid)}
    except UserError as error:  # for example a method that is not registered here
        verdict.notes.append(f"note: settings were not compared with the recorded grid: {error}")
        return
    for name, document in zip(record.entries, documents, strict=True):
        if name not in cells:
            verdict.add("extra", name, "the recorded grid has no such cell")
        elif difference := differing(document["cell"], cells[name].settings):
            verdict.add("altered", name, f"it does not match the recorded grid: {difference}")
        elif document["seeds"] != cells[name].seeds:
            verdict.add("altered", name, f"seeds {document['seeds']} instead of {cells[name].seeds}")
    for name in sorted(set(cells) - set(record.entries)):
        verdict.add("missing", name, "the recorded grid has this cell")


def _differs(file: Path, recomputed: Path, name: str, verdict: Verdict) -> bool:
    """Return whether an existing file differs from the recomputed one. Report missing and different files."""
    if not file.is_file():
        verdict.add("missing", name)
        return False
    if file.read_bytes() == recomputed.read_bytes():
        return False
    text, new_text = (path.read_text(encoding="utf-8", errors="replace") for path in (file, recomputed))
    verdict.add("differs", name, first_difference(text, new_text, is_csv=name.endswith(".csv")))
    return True


def _other_inputs(record: Record, documents: list[dict]) -> list[str]:
    """Return lines about cells that ran with other inputs than data_dir contained at the end of the grid.

    This happens when data_dir is rebuilt on another machine, because the name of a folder does not depend on
    the bits of its files.
    """
    features, counts = record.features, dict.fromkeys(("data", "weights", "features"), 0)
    for document in documents:
        cell, trainings = document["cell"], document["trainings"]
        data = record.data.get(cell["dataset"])
        # own features have no weights; the hash of the data stands in their place
        recorded = (data, record.weights.get(cell["backbone"], data))
        for kind, inputs in zip(("data", "weights"), recorded, strict=True):
            expected = None if inputs is None else inputs.sha256
            counts[kind] += any(training["origin"][kind] != expected for training in trainings)
        read = {item for training in trainings for item in training["features"].items()}
        counts["features"] += any(features[f"features/{name}"] != hashed for name, hashed in read)
    cells = len(documents)
    return [
        f"note: {n} of {cells} cells ran with other {kind} than recorded" for kind, n in counts.items() if n
    ]


def _other_code(record: Record, code: Roots, published: Path) -> list[str]:
    """Return a line on how this code differs from the code that made the tables; no line if it is equal."""
    recorded, current = record.made, made(*code)
    states = (recorded, current)
    facts = {"commit": [state.commit + (" with changes" if state.dirty else "") for state in states]}
    facts["code"] = [recorded.code, current.code]
    for name in (*recorded.versions, *current.versions):
        facts[name] = [state.versions.get(name, "none") for state in states]
    differences = [f"{name} {then}, here {now}" for name, (then, now) in facts.items() if then != now]
    if record.published is not None and record.published != sha256_file(published):
        differences.append("different published numbers")
    if not differences:
        return []
    reasons = "; ".join(differences)
    return [f"note: the tables were made with other code ({reasons}), which alone can explain the difference"]


# --- data, weights, features -----------------------------------------------------------------------


def _check_inputs(record: Record, data_dir: Path, verdict: Verdict) -> None:
    """Hash the data, weights and features that the results were computed from."""
    if not data_dir.is_dir():
        raise UserError(f"data_dir {data_dir} is not a folder here: give its location as --data FOLDER")
    prepared = [*record.data.values(), *(w.pretraining for w in record.weights.values() if w.pretraining)]
    for data in prepared:
        _check_folder(data_dir / data.folder, _has(lambda m: digest(m, 64), data.sha256), verdict)
    for folder, expected in record.features.items():
        _check_folder(data_dir / folder, _has(features_hash, expected), verdict)
    files = [(weights, weights.file) for weights in record.weights.values() if weights.file is not None]
    for weights, file in files:
        path = data_dir / file if weights.card else Path(file)
        if not path.is_file():
            verdict.add("missing", str(path))
        elif sha256_file(path) != weights.sha256:
            verdict.add("altered", str(path), "its SHA-256 is not the recorded one")
    count = len(prepared) + len(record.features) + len(files)
    verdict.checked.append(f"{count} inputs in {data_dir} have the recorded checksums")


def _has(hash_of: Callable[[dict[str, Any]], str], recorded: str) -> Callable[[dict[str, Any]], bool]:
    """Return a function that compares the hash of a manifest with the recorded one."""
    return lambda manifest: hash_of(manifest) == recorded


def _check_folder(folder: Path, is_recorded: Callable[[dict[str, Any]], bool], verdict: Verdict) -> None:
    """Compare a folder's manifest with the record, and its files with the manifest."""
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
