"""What reads a grid file, plans a run or writes tables imports no torch, which takes seconds and 600 MB."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from snake import CORES, ROOT, SMOKE, variables

GRIDS = ["config.yaml", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("config/*.yaml"))]
READS = """
import sys
from sharc_core.grid.loading import load_config
for path in sys.argv[1:]:
    load_config(path)
    print(path, *{"torch", "pandas", "matplotlib"} & sys.modules.keys())
"""
IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, *{"torch"} & sys.modules.keys())
"""
# Python runs such a module at its start.
SITE = """
import atexit, os, sys
def note():
    with open(os.environ["NOTES"], "a") as stream:
        name = sys.argv[0].split(".")[-2].split("/")[-1]  # of tmp1234.tables.py: tables
        print(name, *{"torch", "torchvision"} & sys.modules.keys(), file=stream)
atexit.register(note)
"""


@pytest.mark.slow
def test_reading_a_grid_file_imports_no_large_library():
    command = [sys.executable, "-c", READS, *GRIDS]
    read = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert read.stdout.splitlines() == GRIDS


@pytest.mark.slow
def test_code_of_tables_figures_report_and_records_imports_no_torch():
    package = ROOT / "sharc_core"
    paths = [
        path
        for name in ("results", "figures", "report", "verification")
        for path in package.glob(f"{name}/*.py")
    ]
    paths += [*package.glob("studies/*/table.py"), *package.glob("studies/*/figure*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(paths)]
    read = subprocess.run(
        [sys.executable, "-c", IMPORTS, *names], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len(names) > 40 and read.stdout.splitlines() == names


def imported(folder: Path, tmp_path: Path, *command: str) -> list[str]:
    """Run a module in the folder; return a line per process: its script, and which libraries it imported."""
    site, notes = tmp_path / "site", tmp_path / "notes"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    notes.unlink(missing_ok=True)
    environment = os.environ | variables(folder) | {"PYTHONPATH": str(site), "NOTES": str(notes)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return notes.read_text().splitlines()


@pytest.mark.pipeline
@pytest.mark.slow
def test_a_plan_whose_networks_are_known_imports_no_torch(copy, tmp_path):
    (copy / "results/smoke/matrices").rename(tmp_path / "matrices")  # so that there is something to plan
    for kept in copy.rglob("networks.*.json"):
        kept.unlink()
    plan = ("snakemake", "-n", *CORES, *SMOKE)
    assert imported(copy, tmp_path, *plan) == ["__main__ torch"]
    assert imported(copy, tmp_path, *plan) == ["__main__"]
    (tmp_path / "matrices").rename(copy / "results/smoke/matrices")
    assert imported(copy, tmp_path, "sharc_core", "check", "--config", SMOKE[1]) == ["__main__"]


@pytest.mark.pipeline
@pytest.mark.slow
def test_jobs_of_tables_figures_report_and_record_import_no_torch(copy, tmp_path):
    (copy / "results/smoke/runs.csv").unlink()
    *jobs, _ = imported(copy, tmp_path, "snakemake", *CORES, *SMOKE)
    assert sorted(jobs) == ["figures", "provenance", "report", "runs", "tables"]
