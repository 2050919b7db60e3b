"""Train the missing seeds of one cell or of a batch of cells, and keep the other seeds.

A batch starts Python and torch once, opens the features once and holds a GPU once. Snakemake creates and
deletes all output files of a job together. So a batch writes its documents to a folder that is no job's
output, and they are moved to their places afterwards. If a batch is killed, the next run trains only what is
missing.

A plan reads the names in this module. So functions that train import what needs torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, read_json, write_json, write_text
from sharc_core.features.cache import Features
from sharc_core.features.drifting.part import Kept, Part
from sharc_core.features.drifting.reading import DriftingFeatures
from sharc_core.features.folders import parse_folder
from sharc_core.grid.cell import Cell
from sharc_core.grid.drifting_parts import is_read
from sharc_core.grid.feature_folders import folders_of
from sharc_core.learning.documents import (
    Document,
    Wanted,
    difference,
    extended,
    features_name,
    matching_seeds,
    selected,
    signed,
)
from sharc_core.provenance.code_hashes import code_hash
from sharc_core.provenance.origin import features_hash

FINISHED = ".finished"  # folder next to the documents
OUTDATED = "outdated"  # folder of the results for replaced documents, with cells.keep_replaced
Progress = Callable[[str], None]


def batches(cells: Iterable[Cell], size: int) -> dict[tuple[str, str, str], list[Cell]]:
    """Group cells into jobs of at most `size` cells of one data set, backbone and method, in their order.

    Keys: data set, backbone, and the job's name, which is a method and a number. With one method per job,
    neither a new method nor a changed setting of another one re-runs a job.
    """
    alike: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        alike.setdefault((cell.dataset, cell.backbone, cell.method), []).append(cell)
    return {
        (dataset, backbone, f"{method}-{1 + start // size}"): group[start : start + size]
        for (dataset, backbone, method), group in alike.items()
        for start in range(0, len(group), size)
    }


def open_for(manifests: Sequence[Path]) -> Features | DriftingFeatures:
    """Open the features that cells are trained on. manifests: of the folders, in the order of folders_of."""
    from sharc_core.features.opening import open_folders

    return open_folders([Path(manifest).parent for manifest in manifests])


def kept_document(folder: Path | str, cell: Cell) -> Path:
    """Return where a cell's document lies once its batch has finished it. folder: of the batches."""
    return Path(folder) / f"{cell.id}.document"


def wanted_of(job: Mapping[str, Any]) -> Wanted:
    """Return what a grid wants of a cell from the parameters of its job: cell, code, reads.

    Raises UserError if the code has changed since the job was planned, because the document would then name
    the wrong code.
    """
    reads = {int(seed): list(names) for seed, names in job["reads"].items()}
    cell = Cell.model_validate(dict(job["cell"]))
    if code_hash(*cell.plugins) != job["code"]:
        raise UserError(f"{cell.id}: its code was changed after Snakemake was started: run again")
    return Wanted(cell, job["code"], reads)


def run_alone(
    wanted: Wanted,
    seeds: list[int],
    manifests: Sequence[Path],
    path: Path,
    aside: Path | None = None,
    progress: Progress = print,
) -> None:
    """Train a cell's `seeds` and add them to the seeds of its document that still match the grid.

    manifests: of the features that these seeds read. aside: folder for a document that is replaced; with None
    it is not kept. Raises UserError.
    """
    features = open_for(manifests)
    trained = _trained(features, wanted, seeds, manifests, progress)
    _put_aside(path, aside, wanted, progress)
    write_json(path, extended(_readable(path), trained, wanted))


def run_batch(
    wanted: Sequence[Wanted],
    seeds: Sequence[list[int]],
    documents: Sequence[Path],
    manifests: Sequence[Path],
    stamp: Path,
    aside: Path | None = None,
    progress: Progress = print,
) -> None:
    """Train cells of one data set and backbone, one after the other. Their documents lie next to the stamp.

    seeds: per cell, the seeds to train. documents: the paths that the documents are moved to afterwards.
    manifests: of the features that all cells together need, in order. stamp: written last. aside: as for
    run_alone. If a cell cannot be trained the others still are, and a UserError that names it is raised at
    the end.
    """
    features, failed = open_for(manifests), {}
    for target, requested, document in zip(wanted, seeds, documents, strict=True):
        cell, finished = target.cell, kept_document(stamp.parent, target.cell)
        earlier, say = _readable(finished), _named(cell, progress)
        kept = matching_seeds(earlier, target)  # of an earlier run of this job, not yet moved
        missing = [seed for seed in requested if seed not in kept]
        if not missing:
            say("finished by an earlier run of this job")
            _put_aside(document, aside, target, say)
            assert earlier is not None  # it has all requested seeds
            # the document in its place may have gained other seeds since
            write_json(finished, extended(_readable(document), selected(earlier, kept), target))
            continue
        try:
            trained = _trained(features, target, missing, read_by(cell, missing, manifests), say)
        except UserError as error:
            failed[cell.id] = error
            say(str(error))
            continue
        _put_aside(document, aside, target, say)
        write_json(finished, extended(_readable(document), extended(earlier, trained, target), target))
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise UserError(f"{len(failed)} of {len(wanted)} cells failed, the others are kept: {reasons}")
    write_text(stamp, "\n".join(target.cell.id for target in wanted) + "\n")


def _named(cell: Cell, progress: Progress) -> Progress:
    return lambda line: progress(f"{cell.id}: {line}")


def _trained(
    features: Features | DriftingFeatures,
    wanted: Wanted,
    seeds: list[int],
    manifests: Sequence[Path],
    progress: Progress,
) -> Document:
    from sharc_core.learning.learner import run_cell

    cell = wanted.cell.model_copy(update={"seeds": seeds})
    hashes = {features_name(m.parent): features_hash(read_json(m)) for m in map(Path, manifests)}
    return signed(run_cell(features, cell, progress=progress), wanted, hashes)


def read_by(cell: Cell, seeds: list[int], manifests: Sequence[Path]) -> list[Path]:
    """Return the manifests, among those of a batch, of the features that some seeds of a cell read."""
    chosen = cell.model_copy(update={"seeds": seeds})
    paths = [Path(manifest) for manifest in manifests]
    if cell.batch_norm == "drifting":
        return [path for path in paths if is_read(Part.parse(path.parent.name), chosen)]
    folders = folders_of([chosen], cell.batch_norm, cell.views, Kept)
    return [path for path in paths if parse_folder(path.parent.name) in folders]


def _readable(path: Path) -> Document | None:
    """Read a document; None if it is missing or damaged."""
    try:
        return read_json(path)
    except UserError:
        return None


def _put_aside(path: Path, aside: Path | None, wanted: Wanted, progress: Progress) -> None:
    """Keep a document that is about to be replaced, as <data set>/<backbone>/<cell>-<its hash>.json."""
    if aside is None:
        return
    document = _readable(path)
    if document is not None and difference(document, wanted) is not None:
        cell = wanted.cell
        kept = aside / cell.dataset / cell.backbone / f"{cell.id}-{digest(document)}.json"
        write_json(kept, document)
        progress(f"the replaced document is kept as {kept}")
