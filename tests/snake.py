"""Run `snakemake` and `python -m sharc_core` in a copy of the project, and read the results."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
from forks import Running, start

ROOT = Path(__file__).parents[1]
CORES = ("--cores", "2")
SMOKE = ("--configfile", "config/smoke.yaml")
PATIENCE = 300  # time limit of `wait_for` in seconds
Found = TypeVar("Found")


def copy_project(folder: Path) -> None:
    """Copy the project's files and compiled modules, but no data or results, into a folder."""
    for name in ("sharc_core", "workflow", "config", "envs", "profiles"):
        # a module that is being compiled has such a temporary name, which may vanish before it is copied
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)


def start_snakemake(
    folder: Path,
    *arguments: str,
    environment: dict | None = None,
    fork_jobs: bool = False,
) -> Running:
    """Start `snakemake` in the folder with two cores, in a new process group.

    fork_jobs: fork its jobs too (see forks.py). Leave it off to find and disturb a job's process.
    """
    command = ["snakemake", *CORES, *arguments]
    return start(command, folder, variables(folder) | (environment or {}), fork_jobs)


def variables(folder: Path) -> dict[str, str]:
    """Return environment variables that keep all of Snakemake's files inside the folder."""
    bytecode = {"PYTHONDONTWRITEBYTECODE": ""}  # else every job would compile the project's modules again
    return {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache"), **bytecode}


def snakemake(folder: Path, *arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
    """Run `snakemake` with forked jobs and wait for its end."""
    return start_snakemake(folder, *arguments, environment=environment, fork_jobs=True).ended()


def sharc_core(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `python -m sharc_core` and wait for its end."""
    return start(["sharc_core", *arguments], folder, variables(folder)).ended()


def own_lines(run: subprocess.CompletedProcess) -> list[str]:
    """Return the lines of the output without Snakemake's notice about profiles/default."""
    lines = (run.stdout + run.stderr).strip().splitlines()
    return [line for line in lines if not line.startswith("Using workflow specific profile")]


def ran(said: str) -> list[str]:
    """Return the rules of the finished jobs in the order in which the output lists them."""
    return re.findall(r"^\[ *\d+/\d+\] (\w+)", said, re.M)


def smoke_results(folder: Path) -> dict[str, object]:
    """Return every matrix, table and figure text by path, without wall times."""
    found = {}
    place = folder / "results/smoke"
    for path in sorted(place.rglob("*.json")) + sorted(place.glob("tables/*")):
        name = str(path.relative_to(folder))
        if path.stem == "recall":
            continue  # made by the recall study, which only one test runs
        if "/matrices/" in name:
            found[name] = json.loads(path.read_text())
            del found[name]["costs"]["train_seconds"]
        elif "/tables/" in name or "/figures/" in name:
            found[name] = path.read_bytes()
    return found


def matrices(found: dict[str, object]) -> list[str]:
    """Return the paths of the cells' documents among results, as targets."""
    return [name for name in found if "/matrices/" in name]


def wait_for(found: Callable[[], Found], what: str) -> Found:
    """Wait until `found` returns a true value, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {PATIENCE} s")


def jobs_of(process: Running, script: str) -> list[psutil.Process]:
    """Return the running Python processes of a script, of which Snakemake runs a copy under another name."""
    found = []
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:  # Snakemake has just ended
        return []
    for child in children:
        try:
            if any(part.endswith(f".{script}") for part in child.cmdline()[1:]):
                found.append(child)
        except psutil.Error:
            continue
    return found


def half_written(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.part"))


def finish(folder: Path, undisturbed: dict, *targets: str) -> str:
    """Run the grid or the targets; assert that the bits are equal and that no partial files are left."""
    done = snakemake(folder, *targets, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert smoke_results(folder) == undisturbed
    assert half_written(folder) == []
    return done.stdout
