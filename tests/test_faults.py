"""Faults of clusters and laptops, applied to a real grid: killed jobs, concurrent runs, damaged files.

Every test ends with complete results that equal the original ones bit for bit. For full disks see
test_full_disk.py.
"""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from snake import (
    PATIENCE,
    SMOKE,
    copy_project,
    finish,
    half_written,
    jobs_of,
    matrices,
    ran,
    smoke_results,
    snakemake,
    start_snakemake,
    wait_for,
)

from sharc_core.common.errors import UserError
from sharc_core.features.cache import open_features

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def disturbed(smoke_run, tmp_path_factory):
    """Retrain one grid with several faults until it is complete; return the output of each run."""
    folder = tmp_path_factory.mktemp("disturbed") / "copy"
    shutil.copytree(smoke_run, folder)
    undisturbed = smoke_results(folder)
    cells = (*matrices(undisturbed), *SMOKE)
    assert len(matrices(undisturbed)) == 4
    shutil.rmtree(folder / "results/smoke/matrices")
    told = {}

    process = start_snakemake(folder, *cells)
    victim = wait_for(lambda: jobs_of(process, "cell.py"), "a cell")[0]
    victim.send_signal(signal.SIGKILL)
    told["killed cell"] = process.ended(PATIENCE)

    process = start_snakemake(folder, *cells)
    wait_for(lambda: jobs_of(process, "cell.py"), "a cell")
    process.kill()
    process.ended(PATIENCE)
    told["locked"] = snakemake(folder, *cells)
    told["unlock"] = snakemake(folder, *SMOKE, "--unlock")

    process = start_snakemake(folder, *cells)
    held = wait_for(lambda: jobs_of(process, "cell.py"), "a cell")[0]
    held.send_signal(signal.SIGSTOP)  # so that the first run does not end before the second starts
    try:
        told["second"] = snakemake(folder, *cells)
    finally:
        held.send_signal(signal.SIGCONT)
    told["first"] = process.ended(PATIENCE)

    assert smoke_results(folder) == undisturbed
    assert half_written(folder) == []
    return told


@pytest.mark.reliability("killed-cell")
def test_killed_cell_is_reported_with_its_log(disturbed):
    run = disturbed["killed cell"]
    assert run.returncode == 1
    assert "Error in rule cell" in run.stdout
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("Failed: ")]
    assert re.fullmatch(r"Failed: cell s_digits/\S+ \(log: results/smoke/logs/cells/\S+\.log\)", line)


@pytest.mark.reliability("killed-snakemake")
def test_killed_snakemake_leaves_a_lock_that_unlock_removes(disturbed):
    """All children are killed too, as in a power failure. The lock remains, and the error names --unlock."""
    assert disturbed["locked"].returncode == 1 and "--unlock" in disturbed["locked"].stdout
    assert disturbed["unlock"].returncode == 0


@pytest.mark.reliability("two-runs-one-folder")
def test_second_run_in_a_folder_is_refused(disturbed):
    """The second run is refused, and the first one continues."""
    assert disturbed["second"].returncode == 1
    assert "Directory cannot be locked" in disturbed["second"].stdout
    assert disturbed["first"].returncode == 0, disturbed["first"].stdout


@pytest.mark.reliability("killed-extraction")
def test_killed_extraction_is_repeated_with_the_same_bits(copy):
    (view,) = (copy / "data/features").glob("*/*/view0")
    target = str((view / "manifest.json").relative_to(copy))
    before = {path.name: path.read_bytes() for path in view.glob("*.npy")}
    shutil.rmtree(copy / "data/features")
    process = start_snakemake(copy, target, *SMOKE)
    wait_for(lambda: list(copy.glob("data/features/*/*/.view0.*.part/train_maps.npy")), "half an extraction")
    for job in jobs_of(process, "features.py"):
        job.send_signal(signal.SIGKILL)
    process.ended(PATIENCE)
    assert process.returncode == 1
    assert half_written(copy), "it was killed too late"
    assert not view.exists()
    done = snakemake(copy, target, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert before and {path.name: path.read_bytes() for path in view.glob("*.npy")} == before
    assert half_written(copy) == []


@pytest.mark.reliability("interrupted-change")
def test_interrupted_retraining_updates_the_tables_in_the_next_run(copy, undisturbed):
    """A call retrains a cell but not the tables. The next call updates the tables."""
    cells, table = matrices(undisturbed), "results/smoke/tables/class_il.csv"
    values = yaml.safe_load((copy / "config/smoke.yaml").read_text())
    values |= {"training": {"lr": 0.2}, "cells": {"keep_replaced": True}}
    replaced = (copy / cells[0]).read_bytes()
    (copy / "config/changed.yaml").write_text(yaml.safe_dump(values))
    changed = ("--configfile", "config/changed.yaml")
    # only one cell is changed: no table may mix it with the others
    assert snakemake(copy, cells[0], *changed).returncode == 0
    (kept,) = copy.glob("results/smoke/outdated/*/*/*.json")
    assert kept.read_bytes() == replaced != (copy / cells[0]).read_bytes()
    mixed = snakemake(copy, table, "--allowed-rules", "runs", "tables", *changed)
    assert mixed.returncode == 1
    assert "does not match this grid (it was trained with other settings" in mixed.stdout
    # make the tables, then restore the cells: now the tables are outdated
    there = snakemake(copy, table, *changed)
    assert there.returncode == 0, there.stdout
    assert {"runs", "tables"} <= set(ran(there.stdout))
    assert (copy / table).read_bytes() != undisturbed[table]
    back = snakemake(copy, *cells, *SMOKE)
    assert back.returncode == 0, back.stdout
    assert (copy / table).read_bytes() != undisturbed[table]
    finish(copy, undisturbed)


@pytest.mark.reliability("copied-results", "clocks")
def test_clock_skew_reruns_only_what_is_missing(copy, undisturbed):
    """Two nodes' clocks differ by an hour, so inputs may be newer than their outputs.

    Scripts may be newer too, because a checkout sets new mtimes.
    """
    later = time.time() + 3600
    for path in [*copy.glob("data/*/**/manifest.json"), *copy.glob("results/smoke/matrices/**/*.json")]:
        os.utime(path, (later, later))
    for path in [*copy.glob("data/backbones/*"), *copy.glob("workflow/**/*")]:
        os.utime(path, (later, later))
    assert "Nothing to be done" in snakemake(copy, *SMOKE).stdout
    shutil.rmtree(copy / "results/smoke/tables")
    (copy / "results/smoke/runs.csv").unlink()
    next(copy.glob("results/smoke/matrices/*/*/sgd.json")).unlink()
    said = finish(copy, undisturbed, "results/smoke/tables/class_il.csv")
    rules = ran(said)
    assert "tables" in rules and rules.count("cell") == 1 and "features" not in rules


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refused(folder: Path, *targets: str) -> str:
    """Assert that a run fails with one error line and without a traceback; return the line."""
    run = snakemake(folder, *targets, *SMOKE)
    assert run.returncode == 1
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in run.stdout and line.isprintable()
    return line


@pytest.mark.reliability("damaged-inputs")
def test_damaged_files_are_reported_by_the_job_that_reads_them(copy, undisturbed):
    """One bit is flipped in features, weights and images. What the error says to delete is rebuilt."""
    cell = "results/smoke/matrices/s_digits/resnet_small-pretrain/sgd.json"
    (copy / cell).unlink()
    (view,) = (copy / "data/features").glob("*/*/view0")
    (weights,) = (copy / "data/backbones").glob("*.safetensors")
    (prepared,) = (copy / "data/prepared").glob("digits-*")
    features = str((view / "manifest.json").relative_to(copy))
    sums = {
        path: path.read_bytes() for path in (view / "train_maps.npy", weights, prepared / "train_images.npy")
    }

    flip(view / "train_maps.npy")
    line = refused(copy, cell)
    assert line.startswith("error: s_digits sgd: ")
    assert f"{(view / 'train_maps.npy').relative_to(copy)} was altered" in line
    assert "delete the folder and run again (log: results/smoke/logs/cells/" in line
    shutil.rmtree(view)

    flip(weights)
    line = refused(copy, features)
    assert line.startswith("error: features s_digits: ")
    assert f"{weights.relative_to(copy)} was altered (its SHA-256 differs from its card's)" in line
    assert f"delete it and {weights.stem}.json next to it and run again" in line
    weights.unlink()
    weights.with_suffix(".json").unlink()

    flip(prepared / "train_images.npy")
    line = refused(copy, features)
    assert line.startswith("error: features s_digits: ")
    assert f"{(prepared / 'train_images.npy').relative_to(copy)} was altered" in line
    assert "delete the folder and run again" in line
    shutil.rmtree(prepared)

    done = snakemake(copy, cell, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert {path: path.read_bytes() for path in sums} == sums
    assert smoke_results(copy) == undisturbed
    assert half_written(copy) == []


@pytest.mark.reliability("two-runs-one-data-folder")
def test_two_projects_share_a_data_folder(tmp_path, project):
    """Both runs start at the same time and make the same images and features.

    They use the existing weights, which neither run has made.
    """
    (reference,) = (project / "data/features").glob("*/*/view0")
    target = str((reference / "manifest.json").relative_to(project))
    shutil.copytree(project / "data", tmp_path / "data")
    for made in (tmp_path / "data/features", *(tmp_path / "data/prepared").glob("digits-*")):
        shutil.rmtree(made)
    processes = []
    for name in ("one", "two"):
        copy_project(tmp_path / name)
        (tmp_path / name / "data").symlink_to(tmp_path / "data")
        processes.append(start_snakemake(tmp_path / name, target, *SMOKE))
    for process in processes:
        said = process.ended().stdout
        assert process.returncode == 0, said
        rules = ran(said)
        assert "data" in rules and "features" in rules and "pretrain" not in rules
    assert half_written(tmp_path) == []
    view = tmp_path / "data" / reference.relative_to(project / "data")
    open_features(view, verify=True)
    for path in reference.glob("*.npy"):
        assert (view / path.name).read_bytes() == path.read_bytes()


@pytest.mark.reliability("two-runs-one-data-folder")
def test_features_can_be_read_while_another_grid_makes_them_anew(copy):
    """A run in another folder with the same data_dir may have started before the features existed."""
    (view,) = (copy / "data/features").glob("*/*/view0")
    before = view.stat().st_ino
    target = str((view / "manifest.json").relative_to(copy))
    process = start_snakemake(copy, target, "--force", *SMOKE)
    opened = 0
    try:
        while process.poll() is None:
            try:
                open_features(view)
            except (UserError, FileNotFoundError):  # only on systems that cannot exchange folders in one step
                time.sleep(0.2)
                open_features(view)
            opened += 1
            time.sleep(0.01)
    finally:
        said = process.ended(PATIENCE).stdout
    assert process.returncode == 0, said
    assert opened > 100 and view.stat().st_ino != before
