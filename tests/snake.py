"""Real runs of `snakemake` and `python -m sharc_core` in a copy of the project, and what they make."""

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
PATIENCE = 300  # seconds until something that is waited for must have happened
Found = TypeVar("Found")


def copy_project(folder: Path) -> None:
    """The project's files, without results or data, into a folder. With them what Python has compiled."""
    for name in ("sharc_core", "workflow", "config", "envs", "profiles"):
        # what is just being compiled has such names, and may be gone before it is copied
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)


def start_snakemake(
    folder: Path,
    *arguments: str,
    environment: dict | None = None,
    fork_jobs: bool = False,
) -> Running:
    """`snakemake` in the folder with two cores, in a process group of its own.

    fork_jobs: its jobs are forked like itself (see forks.py); who wants to find and disturb one leaves that.
    """
    command = ["snakemake", *CORES, *arguments]
    return start(command, folder, variables(folder) | (environment or {}), fork_jobs)


def variables(folder: Path) -> dict[str, str]:
    """For a Snakemake of which nothing is to remain outside the folder."""
    bytecode = {"PYTHONDONTWRITEBYTECODE": ""}  # or every job would compile the project's modules again
    return {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache"), **bytecode}


def snakemake(folder: Path, *arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
    """The same with forked jobs, waited for."""
    return start_snakemake(folder, *arguments, environment=environment, fork_jobs=True).ended()


def sharc_core(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m sharc_core`, waited for."""
    return start(["sharc_core", *arguments], folder, variables(folder)).ended()


def own_lines(run: subprocess.CompletedProcess) -> list[str]:
    """What was said, line by line, without Snakemake's notice that it read profiles/default."""
    lines = (run.stdout + run.stderr).strip().splitlines()
    return [line for line in lines if not line.startswith("Using workflow specific profile")]


def ran(said: str) -> list[str]:
    """The rules of the jobs that a run says are done, in order."""
    return re.findall(r"^\[ *\d+/\d+\] (\w+)", said, re.M)


def smoke_results(folder: Path) -> dict[str, object]:
    """Every matrix, table and figure (in words) by path, wall times left out."""
    found = {}
    place = folder / "results/smoke"
    for path in sorted(place.rglob("*.json")) + sorted(place.glob("tables/*")):
        name = str(path.relative_to(folder))
        if path.stem == "recall":
            continue  # the recall study's, which only one test makes
        if "/matrices/" in name:
            found[name] = json.loads(path.read_text())
            del found[name]["costs"]["train_seconds"]
        elif "/tables/" in name or "/figures/" in name:
            found[name] = path.read_bytes()
    return found


def matrices(found: dict[str, object]) -> list[str]:
    """The paths of cells' documents among results: targets to make."""
    return [name for name in found if "/matrices/" in name]


def wait_for(found: Callable[[], Found], what: str) -> Found:
    """What `found` returns once it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {PATIENCE} s")


def jobs_of(process: Running, script: str) -> list[psutil.Process]:
    """Running Python processes of a script (Snakemake runs a copy of it under a name of its own)."""
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
    """Run the grid to its end, or as far as the targets: equal bits, nothing half-written left."""
    done = snakemake(folder, *targets, *SMOKE)
    assert done.returncode == 0, done.stdout
    assert smoke_results(folder) == undisturbed
    assert half_written(folder) == []
    return done.stdout
