"""Jobs of several cells: one start of Python and torch, one opening of the features, one hold on a GPU.

Snakemake makes and deletes the files of a job together. So that a batch that was killed, or gained a cell,
trains only what is missing, documents lie in a folder that is no job's output as soon as they are finished,
each with a key of all that its numbers are a function of. A batch that is made again although nothing about
it changed (`--forcerun`) is trained anew, as any job would be.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from sharc_core.cell import Cell
from sharc_core.device import device_text, resolve_device
from sharc_core.drifting.part import Part
from sharc_core.drifting.plan import is_read
from sharc_core.drifting.reading import DriftingFeatures, open_drifting
from sharc_core.errors import UserError
from sharc_core.features import Features, open_views
from sharc_core.files import digest, read_json, sha256_file, write_json
from sharc_core.learner import run_cell, versions
from sharc_core.views import needed_views

FINISHED = ".finished"  # folder beside the documents
Progress = Callable[[str], None]


def batches(cells: Iterable[Cell], size: int) -> dict[tuple[str, str, str], list[Cell]]:
    """The cells in jobs of at most `size` of one data set, backbone and method, in their order.

    Keys: data set, backbone and the job's name, a method and a number. A job of one method alone, so that
    neither a setting of another one nor a new one makes its cells again.
    """
    alike: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.dataset, cell.backbone, cell.method), []).append(cell)
    return {
        (dataset, backbone, f"{method}-{1 + start // size}"): group[start : start + size]
        for (dataset, backbone, method), group in alike.items()
        for start in range(0, len(group), size)
    }


def open_for(cell: Cell, manifests: list[Path]) -> Features | DriftingFeatures:
    """The features that a cell is trained on. manifests: of its views, the first first, or of its parts."""
    folders = [Path(manifest).parent for manifest in manifests]
    return open_drifting(folders) if cell.batch_norm == "drifting" else open_views(folders)


def kept_document(folder: Path | str, cell: Cell) -> Path:
    """Where a cell's document lies once it is finished. folder: that of the batches."""
    return Path(folder) / f"{cell.id}.document"


def run_batch(
    cells: list[Cell],
    codes: list[str],
    manifests: list[Path],
    stamp: Path,
    progress: Progress = print,
) -> None:
    """Train cells of one data set and backbone, one after the other; their documents lie beside the stamp.

    codes: hashes of the code behind each. manifests: of the views that all of them together need, in order.
    stamp: written last. A cell that cannot be trained costs the others nothing: the UserError that names it
    is raised at the end.
    """
    features = open_for(cells[0], manifests)
    keys = _keys(cells, codes, manifests)
    # what this batch was when it was last complete; no job's output, so it stays
    known = stamp.with_suffix(".keys")
    if _content(known) == {"keys": keys}:
        known.unlink()
        for cell in cells:
            kept_document(stamp.parent, cell).unlink(missing_ok=True)
    failed = {}
    for cell, key in zip(cells, keys, strict=True):
        try:
            _finish(features, cell, key, kept_document(stamp.parent, cell), progress)
        except UserError as error:
            failed[cell.id] = error
            progress(f"{cell.id}: {error}")
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise UserError(f"{len(failed)} of {len(cells)} cells failed, the others are kept: {reasons}")
    write_json(known, {"keys": keys})
    write_json(stamp, {"keys": keys})


def _keys(cells: list[Cell], codes: list[str], manifests: list[Path]) -> list[str]:
    """Of all that each cell's numbers are a function of: settings, code, features, libraries, device."""
    made_by = [versions(), device_text(resolve_device(cells[0].device))]
    hashes = _hashes(cells, manifests)
    return [
        digest([cell.job, code, read, made_by], 64)
        for cell, code, read in zip(cells, codes, hashes, strict=True)
    ]


def _hashes(cells: list[Cell], manifests: list[Path]) -> list[list[str]]:
    """Of the manifests that each cell reads, in their order."""
    found = list(map(sha256_file, manifests))
    if cells[0].batch_norm == "drifting":
        parts = [Part.parse(manifest.parent.name) for manifest in manifests]
        pairs = list(zip(parts, found, strict=True))
        return [[hashed for part, hashed in pairs if is_read(part, cell)] for cell in cells]
    views = needed_views([seed for cell in cells for seed in cell.seeds], cells[0].views)
    by_view = dict(zip(views, found, strict=True))
    return [[by_view[view] for view in needed_views(cell.seeds, cell.views)] for cell in cells]


def _finish(
    features: Features | DriftingFeatures, cell: Cell, key: str, document: Path, progress: Progress
) -> None:
    """See to it that the cell's document is there, of this key, whole."""
    note = document.with_suffix(".key")
    if document.exists() and _content(note) == {"key": key, "sha256": sha256_file(document)}:
        progress(f"{cell.id}: finished by an earlier run of this job")
        return
    write_json(document, run_cell(features, cell, progress=lambda line: progress(f"{cell.id}: {line}")))
    write_json(note, {"key": key, "sha256": sha256_file(document)})


def _content(path: Path) -> object:
    """Of a JSON file; None where there is none, or a damaged one."""
    try:
        return read_json(path)
    except UserError:
        return None
