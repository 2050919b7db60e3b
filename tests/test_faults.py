"""What clusters and laptops do to a running grid, really done to one: killed jobs, full disks, two at once.

Every test ends with the grid whole again and equal, bit for bit, to an undisturbed one.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from snake import smoke_results, snakemake, start_snakemake

pytestmark = pytest.mark.pipeline
SMOKE = ("--configfile", "config/smoke.yaml")
PATIENCE = 120  # seconds until something that is waited for must have happened


@pytest.fixture
def copy(project, tmp_path):
    """The finished project, to be disturbed."""
    folder = tmp_path / "copy"
    shutil.copytree(project, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(project):
    found = smoke_results(project)
    assert len([name for name in found if "/matrices/" in name]) == 4
    return found


def wait_for(found, what: str):
    """What `found` returns once it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {PATIENCE} s")


def jobs(process: subprocess.Popen, script: str) -> list[psutil.Process]:
    """Running Python processes of a script (Snakemake runs a copy of it under a name of its own)."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any(part.endswith(f".{script}") for part in child.cmdline()[1:]):
                found.append(child)
        except psutil.Error:
            continue
    return found


def half_written(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.part"))


def finish(folder: Path, undisturbed: dict) -> str:
    """Run the grid to its end: equal bits, nothing half-written left."""
    done = snakemake(folder, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert smoke_results(folder) == undisturbed
    assert half_written(folder) == []
    return done.stdout


def test_a_killed_cell(copy, undisturbed):
    shutil.rmtree(copy / "results/smoke/matrices")
    process = start_snakemake(copy, *SMOKE)
    victim = wait_for(lambda: jobs(process, "cell.py"), "a cell")[0]
    victim.send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "Error in rule cell" in said and "/logs/cells/" in said  # names the log
    finish(copy, undisturbed)


def test_an_extraction_killed_half_way(copy, undisturbed):
    shutil.rmtree(copy / "data/features")
    shutil.rmtree(copy / "results/smoke/matrices")
    process = start_snakemake(copy, *SMOKE)
    wait_for(lambda: list(copy.glob("data/features/*/*/.view0.*.part/train_maps.npy")), "half an extraction")
    for job in jobs(process, "features.py"):
        job.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert half_written(copy), "it was killed too late"
    assert not list(copy.glob("data/features/*/*/view0"))
    finish(copy, undisturbed)


def test_snakemake_itself_killed(copy, undisturbed):
    """With all its children, as when a machine loses its power. The lock stays; Snakemake says what to do."""
    shutil.rmtree(copy / "results/smoke/matrices")
    process = start_snakemake(copy, *SMOKE)
    wait_for(lambda: jobs(process, "cell.py"), "a cell")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    refused = snakemake(copy, *SMOKE)
    assert refused.returncode == 1 and "--unlock" in refused.stdout
    assert snakemake(copy, *SMOKE, "--unlock").returncode == 0
    finish(copy, undisturbed)


def test_two_grids_at_once_in_a_folder(copy, undisturbed):
    shutil.rmtree(copy / "results/smoke/matrices")
    process = start_snakemake(copy, *SMOKE)
    wait_for(lambda: jobs(process, "cell.py"), "a cell")
    second = snakemake(copy, *SMOKE)
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.stdout
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert smoke_results(copy) == undisturbed


def test_an_interrupted_change_reaches_the_tables(copy, undisturbed):
    """A cell re-run by a call that died before the tables: the next call makes them anew."""
    cell = "results/smoke/matrices/s_digits/resnet_small-pretrain/sgd.json"
    before = (copy / "results/smoke/runs.csv").read_text()
    values = yaml.safe_load((copy / "config/smoke.yaml").read_text()) | {"training": {"lr": 0.2}}
    (copy / "config/changed.yaml").write_text(yaml.safe_dump(values))
    changed = ("--configfile", "config/changed.yaml")
    assert snakemake(copy, cell, *changed).returncode == 0
    done = snakemake(copy, *changed)
    assert done.returncode == 0, done.stdout
    assert (copy / "results/smoke/runs.csv").read_text() != before
    back = snakemake(copy, cell, *SMOKE)
    assert back.returncode == 0, back.stdout
    finish(copy, undisturbed)


def test_clocks_that_disagree(copy, undisturbed):
    """An hour between two nodes' clocks: inputs are younger than what was made from them, or will be."""
    later = time.time() + 3600
    for path in [*copy.glob("data/*/**/manifest.json"), *copy.glob("results/smoke/matrices/**/*.json")]:
        os.utime(path, (later, later))
    for path in copy.glob("data/backbones/*"):
        os.utime(path, (later, later))
    assert "Nothing to be done" in snakemake(copy, *SMOKE).stdout
    shutil.rmtree(copy / "results/smoke/matrices")
    assert "rule features" not in finish(copy, undisturbed)
