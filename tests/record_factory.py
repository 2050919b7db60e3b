"""A finished grid of synthetic documents with data_dir, results_dir and record, made without running jobs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from result_factory import make_document

from sharc_core.common.files import digest, read_json, sha256_file, write_json, write_text
from sharc_core.common.integrity import entry
from sharc_core.grid.loading import load_grid
from sharc_core.grid.models import Grid
from sharc_core.grid.unroll import extracted_views, memberships
from sharc_core.learning.documents import Wanted, signed
from sharc_core.provenance.code_hashes import code_hash
from sharc_core.provenance.origin import features_hash, versions
from sharc_core.report.tables import write_all_tables
from sharc_core.results.published import load_published
from sharc_core.results.runs import read_runs, runs_table, write_runs
from sharc_core.stages.layout import Layout
from sharc_core.studies.base import Results
from sharc_core.studies.recall.settings import COLUMNS
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import job_file, job_key, read_rows, write_rows
from sharc_core.verification.record import Entry, card_copy, write_grid_record, write_study_record
from sharc_core.verification.verify import PUBLISHED

SMOKE = Path(__file__).parents[1] / "config/smoke.yaml"


@dataclass
class Finished:
    """A grid with all its files, and the origin of its runs."""

    grid: Grid
    origin: dict[str, Any]

    @property
    def results(self) -> Path:
        return Path(self.grid.results_dir)

    @property
    def data(self) -> Path:
        return Path(self.grid.data_dir)


def finished_grid(folder: Path, **changes) -> Finished:
    """Write the smoke grid and a study below `folder`, with synthetic numbers and real tables and record."""
    values = yaml.safe_load(SMOKE.read_text()) | {"data_dir": str(folder / "data")}
    values |= {"results_dir": str(folder / "results"), "studies": {"sweep": {"scenarios": ["task_il"]}}}
    grid = load_grid(values | changes)
    done = Finished(grid, _make_data(grid))
    cells, layout = {}, Layout(grid)
    for cell, members in memberships(grid):
        document = make_document(
            cell.method,
            cell.variant,
            dataset=cell.dataset,
            backbone=cell.backbone,
            buffer=cell.buffer,
            seeds=cell.seeds,
            theta=cell.theta,
        )
        document["cell"] = cell.settings
        document["trainings"][0] |= {"origin": done.origin, "versions": versions()}
        code = code_hash(*cell.plugins)
        wanted = Wanted(cell, code, layout.reads(cell))
        names = {name for names in wanted.reads.values() for name in names}
        path = layout.cell(cell)
        write_json(path, signed(document, wanted, dict.fromkeys(sorted(names), done.origin["features"])))
        cells[path] = Entry(members=members, seeds=cell.seeds, key=wanted.key)
    members = [entry.members for entry in cells.values()]
    write_runs(runs_table([read_json(path) for path in cells], members), done.results / "runs.csv")
    runs = read_runs(done.results / "runs.csv")
    tables = done.results / "tables"
    others = write_all_tables(runs, load_published(PUBLISHED), tables, list(grid.studies), grid.config_hash)
    for name in ("figures/bytes_task_il.svg", "report.html"):
        write_text(done.results / name, f"<p>{name}</p>\n")
        others.append(done.results / name)
    others.append(_copy_card(layout))
    write_grid_record(grid, cells, [done.results / "runs.csv", *others], PUBLISHED, {"runs": "a key"})
    return done


def add_recall(done: Finished) -> None:
    """Add the grid's recall study with one measured point."""
    rows, study, folder = {}, study_of(done.grid, "recall"), done.results
    for number, job in enumerate(study.jobs(done.grid), 1):
        values = dict.fromkeys(COLUMNS, 0.25) | {"dataset": job.dataset, "backbone": job.backbone}
        values |= {"memory": job.name, "seed": 0, "sweep": "base", "mask": "saliency"}
        values |= {
            "relative_error": number / 7,
            "patterns": 10,
            "maps_read": 10,
            "forgetting": None,
            "reason": None,
        }
        path, key = folder / job_file(study, job), job_key(study, job, Layout(done.grid))
        rows[path] = key
        made_by = {"origin": done.origin, "versions": versions()}
        write_rows(pd.DataFrame([values], columns=list(COLUMNS)), path, made_by, key)
    results = Results(done.grid.config_hash, rows=read_rows(study, list(rows), list(rows.values())))
    study.write_tables(results, folder / "tables")
    others = [folder / "tables" / name for name in study.table_names()]
    write_study_record(done.grid, "recall", rows, others, {"recall_tables": "a key"})


def _copy_card(layout: Layout) -> Path:
    (name,) = layout.backbones
    copy = card_copy(layout, name)
    write_json(copy, read_json(layout.card(name)))
    return copy


def _make_data(grid: Grid) -> dict[str, Any]:
    """Write small files under the real names of data, weights and features; return the origin."""
    layout = Layout(grid)
    (name,) = layout.backbones
    trained_on = _folder(layout.pretraining_data(name), "images.npy")
    weights, card = layout.weights(name), layout.card(name)
    write_text(weights, "weights")
    write_json(card, {"data": {"sha256": digest(trained_on, 64)}, "weights_sha256": sha256_file(weights)})
    described = {"weights": "pretrain", "sha256": sha256_file(weights)}
    for dataset, _, view in extracted_views(grid):
        prepared = _folder(layout.prepared(dataset), "train_images.npy")
        further = {"dataset": digest(prepared, 64), "backbone": described}
        manifest = _folder(layout.features(dataset, name, view), "train_maps.npy", **further)
    origin = {"commit": "c0" * 20, "dirty": False, "host": "Linux x86_64, a processor"}
    origin |= {
        "data": manifest["dataset"],
        "weights": described["sha256"],
        "features": features_hash(manifest),
    }
    return origin


def _folder(path: Path, name: str, **further) -> dict:
    write_text(path / name, f"{path.name}/{name}\n")
    manifest = {"files": {name: entry(path / name)}, **further}
    write_json(path / "manifest.json", manifest)
    return json.loads((path / "manifest.json").read_text())
