"""The records of finished results, with the origin of the results and the checksum of every file.

The grid's record is results_dir/provenance.json. A study with jobs has its own, provenance_<study>.json.
A record is written after all other files of its target. `verify` reads the records.
"""

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, sha256_file, write_json
from sharc_core.common.integrity import entry
from sharc_core.common.settings import NAME, Settings
from sharc_core.common.validation_messages import explain
from sharc_core.grid.models import Grid
from sharc_core.grid.unroll import cells as unrolled
from sharc_core.learning.documents import read_document
from sharc_core.provenance.code_hashes import library_versions, stage_hash
from sharc_core.provenance.lineage import lineage
from sharc_core.provenance.origin import features_hash, git_state, host
from sharc_core.results.runs import read_runs
from sharc_core.stages.layout import Layout
from sharc_core.studies.base import Backbones, Roots
from sharc_core.studies.registered import backbones_of_cells, cell_studies, study_of
from sharc_core.studies.rows import read_rows

GRID = "grid"  # the kind of a grid's record; the kind of a study's record is the study's name
# Roots (see code_hashes.stage_hash) of the code that makes a grid's tables, without that of its studies.
TABLE_CODE = ("report.tables", "results.published", "results.runs")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Members = dict[str, list[str]]


class File(Settings):
    """One file of the results."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class Made(Settings):
    """The code and machine that made the tables and wrote this record. `origin` is about the runs.

    code: hash of the code that makes the tables. versions: of the libraries that this code imports.
    """

    commit: str
    dirty: bool | None
    host: str
    code: str
    versions: dict[str, str]


class Data(Settings):
    """A prepared data set: its folder below data_dir, and the hash of its manifest."""

    folder: str
    sha256: Sha256


class Weights(Settings):
    """The weights of a backbone.

    file: path below data_dir for weights pre-trained here, else the path in the grid file; None for
    torchvision's weights. sha256: hash of the file, or of the tensors for torchvision's weights. card,
    pretraining: card and data of weights pre-trained here, None for others.
    """

    weights: str
    file: str | None
    sha256: Sha256
    card: dict[str, Any] | None = None
    pretraining: Data | None = None


class Entry(Settings):
    """A cell's document, as the grid reports it.

    members: by scenario, the parts of the grid that report it (unroll.memberships). seeds: the reported
    seeds; the document may hold more. key: documents.Wanted.key.
    """

    members: Members
    seeds: list[int]
    key: str


class Record(Settings):
    """The record of one target, which is the grid itself or a study with jobs.

    kind: GRID or the study's name. config: the grid, with defaults filled in. origin: lineage.lineage of all
    runs. features: by folder below data_dir, its features_hash. published: hash of the paper's numbers.
    studies: names of the sub-grids. entries: by document. rows: by file of the study's jobs, its key.
    settings: of the study. stages: by stage, a hash of what its files were made from
    (comparison.stage_keys). files: by path below results_dir.
    """

    format: Literal[2] = 2
    kind: str = Field(pattern=NAME)
    made: Made
    config: dict[str, Any]
    config_hash: str
    origin: dict[str, Any]
    cells: int
    runs: int
    data: dict[str, Data]
    weights: dict[str, Weights]
    features: dict[str, Sha256]
    published: Sha256 | None = None
    studies: list[str] = []
    entries: dict[str, Entry] = {}
    rows: dict[str, str] = {}
    settings: dict[str, Any] = {}
    stages: dict[str, str] = {}
    files: dict[str, File]

    @field_validator("files")
    @classmethod
    def _stay_inside(cls, value: dict[str, File]) -> dict[str, File]:
        for name in value:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"{name!r} is not the name of a file below the results")
        return value


def write_grid_record(
    grid: Grid,
    cells: Mapping[Path | str, Entry],
    others: Iterable[Path | str],
    published: Path | str,
    stages: Mapping[str, str],
) -> Path:
    """Write results_dir/provenance.json of a finished grid and return the path.

    cells: by document. others: all other files of the grid, such as runs.csv and the backbones' cards.
    published: the paper's numbers. stages: comparison.stage_keys. Raises UserError for a document that
    does not match the grid.
    """
    folder, others = Path(grid.results_dir), list(others)
    documents = [read_document(path, entry.seeds, entry.key) for path, entry in cells.items()]
    return _write(
        grid,
        GRID,
        made(*grid_table_code(grid.model_dump(), backbones_of_cells(unrolled(grid)))),
        read_runs(folder / "runs.csv"),
        _inputs_of(Layout(grid), documents),
        [*cells, *others],
        cells=len(cells),
        published=sha256_file(published),
        studies=list(grid.sub_grids),
        entries={_below(folder, path): entry for path, entry in cells.items()},
        stages=dict(stages),
    )


def write_study_record(
    grid: Grid,
    name: str,
    rows: Mapping[Path | str, str],
    others: Iterable[Path | str],
    stages: Mapping[str, str],
) -> Path:
    """Write the record of a study with jobs and return the path. rows: by file of the jobs, its key."""
    folder, layout, study = Path(grid.results_dir), Layout(grid), study_of(grid, name)
    return _write(
        grid,
        name,
        made(*study.table_code()),
        read_rows(study, list(rows), list(rows.values())),
        _inputs_in_data_dir(layout, [(job.dataset, job.backbone) for job in study.chosen_jobs(grid)]),
        [*rows, *others],
        cells=len(rows),
        rows={_below(folder, path): key for path, key in rows.items()},
        settings=study.settings.model_dump(mode="json"),
        stages=dict(stages),
    )


def record_name(kind: str) -> str:
    """Return the name of a record's file in results_dir."""
    return "provenance.json" if kind == GRID else f"provenance_{kind}.json"


def is_record(name: str) -> bool:
    """Return whether a file in results_dir is a record, judged by its name."""
    return name == record_name(GRID) or (name.startswith("provenance_") and name.endswith(".json"))


def _write(
    grid: Grid,
    kind: str,
    made_by: Made,
    runs: pd.DataFrame,
    inputs: Mapping[str, Any],
    files: Iterable[Path | str],
    **further: Any,
) -> Path:
    folder = Path(grid.results_dir)
    record = Record(
        kind=kind,
        made=made_by,
        config=grid.model_dump(mode="json"),
        config_hash=grid.config_hash,
        origin=lineage(runs, grid.config_hash),
        runs=len(runs),
        **inputs,
        files={_below(folder, path): File(**entry(Path(path))) for path in files},
        **further,
    )
    write_json(folder / record_name(kind), record.model_dump(mode="json"))
    return folder / record_name(kind)


def grid_table_code(values: Mapping[str, Any], backbones: Backbones) -> Roots:
    """Return roots of the code of a grid's tables. values, backbones: as for cell_studies."""
    studies = cell_studies(values, backbones)
    return (*TABLE_CODE, *(root for study in studies for root in study.table_code()))


def made(*roots: str | Path) -> Made:
    """Return the commit, host, code hash and libraries that make tables now. roots: of the code."""
    versions = {"python": platform.python_version(), **library_versions(*roots)}
    return Made(**git_state(), host=host(), code=stage_hash(*roots), versions=versions)


def _inputs_of(layout: Layout, documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a record's data, weights and features as documents name them; data_dir need not exist."""
    data: dict[str, Data] = {}
    weights: dict[str, Weights] = {}
    features: dict[str, str] = {}
    for document in documents:
        dataset, backbone = (document["cell"][name] for name in ("dataset", "backbone"))
        for training in document["trainings"]:
            hashes = training["features"]
            features |= {f"features/{name}": features_sha256 for name, features_sha256 in hashes.items()}
            prepared = f"prepared/{next(iter(hashes)).split('/')[0]}"
            data[dataset] = Data(folder=prepared, sha256=training["origin"]["data"])
            if backbone in layout.backbones:  # own features come from the data alone
                weights[backbone] = _weights(layout, backbone, training["origin"]["weights"])
    return {"data": data, "weights": weights, "features": features}


def _inputs_in_data_dir(layout: Layout, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Like _inputs_of, for pairs of a data set and a backbone, from the manifests in data_dir."""
    data, weights, features = {}, {}, {}
    for dataset, backbone in dict.fromkeys(pairs):
        folder = layout.features(dataset, backbone)
        manifest = read_json(folder / "manifest.json")
        features[_below(layout.data, folder)] = features_hash(manifest)
        data[dataset] = Data(folder=f"prepared/{layout.prepared(dataset).name}", sha256=manifest["dataset"])
        if backbone in layout.backbones:
            weights[backbone] = _weights(layout, backbone, manifest["backbone"]["sha256"])
    return {"data": data, "weights": weights, "features": features}


def _weights(layout: Layout, backbone: str, sha256: str) -> Weights:
    file, card = layout.weights(backbone), layout.card(backbone)
    common: dict[str, Any] = {"weights": layout.backbones[backbone].weights, "sha256": sha256}
    copy = card_copy(layout, backbone)
    if card is None or copy is None or file is None:
        return Weights(**common, file=None if file is None else str(file))
    content = read_json(copy)
    folder = _below(layout.data, layout.pretraining_data(backbone))
    trained_on = Data(folder=folder, sha256=content["data"]["sha256"])
    return Weights(**common, file=_below(layout.data, file), card=content, pretraining=trained_on)


def card_copy(layout: Layout, backbone: str) -> Path | None:
    """Return the path of the results' copy of a backbone's card; None for weights not pre-trained here."""
    card = layout.card(backbone)
    return None if card is None else layout.results / "backbones" / card.name


def _below(folder: Path, path: Path | str) -> str:
    return Path(path).relative_to(folder).as_posix()


def read_record(path: Path | str) -> Record:
    """Read a record. Raises UserError with one line if it is missing, damaged or of another format."""
    values = read_json(path)
    try:
        return Record.model_validate(values)
    except ValidationError as error:
        problem = explain(error, Record)
    remedy = "run snakemake to make it again, or restore it from a copy"
    raise UserError(f"{path} is damaged ({problem}): {remedy}")
