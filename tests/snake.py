"""Running a real `snakemake` in a copy of the project."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 500


def copy_project(folder: Path) -> None:
    """The project's files, without results or data, into a folder."""
    for name in ("sharc_core", "workflow", "config", "envs", "profiles"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)


def start_snakemake(folder: Path, *arguments: str, environment: dict | None = None) -> subprocess.Popen:
    """`snakemake` in the folder with two cores, in a process group of its own; its output in one pipe."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache")}
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **home, **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def snakemake(folder: Path, *arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
    """The same, waited for; `stdout` has all that was said."""
    process = start_snakemake(folder, *arguments, environment=environment)
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, said, "")


def own_lines(run: subprocess.CompletedProcess) -> list[str]:
    """What was said, line by line, without Snakemake's notice that it read profiles/default."""
    lines = (run.stdout + run.stderr).strip().splitlines()
    return [line for line in lines if not line.startswith("Using workflow specific profile")]


def smoke_results(folder: Path) -> dict[str, object]:
    """Every matrix and table of the smoke grid by path, wall times left out."""
    found = {}
    for path in sorted((folder / "results/smoke").rglob("*.json")) + sorted(folder.rglob("tables/*")):
        name = str(path.relative_to(folder))
        if "/matrices/" in name:
            found[name] = json.loads(path.read_text())
            del found[name]["costs"]["train_seconds"]
        elif "/tables/" in name:
            found[name] = path.read_bytes()
    return found
