"""Running a real `snakemake` in a copy of the project, and looking at what it makes."""

import atexit
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import BinaryIO, TypeVar

import psutil
from snakemake.benchmark import benchmarked
from snakemake.cli import main
from snakemake.script import PythonScript

ROOT = Path(__file__).parents[1]
SECONDS = 1500
CORES = ("--cores", "2")
SMOKE = ("--configfile", "config/smoke.yaml")
PATIENCE = 300  # seconds until something that is waited for must have happened
LIBRARIES = [
    *("snakemake.cli", "snakemake.api", "snakemake.scheduling.job_scheduler"),
    *("torch", "torch.fx.experimental.symbolic_shapes", "torch._meta_registrations", "torchvision"),
    *("pandas", "pydantic", "safetensors", "scipy.stats", "matplotlib", "fontTools.ttLib", "PIL.ImageFont"),
]
Found = TypeVar("Found")


def copy_project(folder: Path) -> None:
    """The project's files, without results or data, into a folder. With them what Python has compiled."""
    for name in ("sharc_core", "workflow", "config", "envs", "profiles"):
        # what is just being compiled has such names, and may be gone before it is copied
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)


class Running:
    """A Snakemake that was started, much as subprocess.Popen has it."""

    def __init__(self, process: multiprocessing.process.BaseProcess, said: BinaryIO):
        self.pid = process.pid
        self._process, self._said = process, said

    @property
    def returncode(self) -> int | None:
        """Its exit status once it has ended."""
        return self.poll()

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """To it, not to what it has started; to nobody once it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """It and what it has started, unless it has ended."""
        if self.poll() is not None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has only just been forked: the group is yet to come
            self.send_signal(signal.SIGKILL)

    def ended(self, within: float = SECONDS) -> subprocess.CompletedProcess:
        """Wait for its end; `stdout` has all that was said. One that takes longer is killed."""
        self._process.join(within)
        late = self.poll() is None
        if late:
            self.kill()
            self._process.join()
        said = self._said.fileno()  # whose position is also the writers'
        text = os.pread(said, os.fstat(said).st_size, 0).decode()
        if late:
            raise subprocess.TimeoutExpired("snakemake", within, text)
        return subprocess.CompletedProcess("snakemake", self.poll(), text, "")


def start_snakemake(
    folder: Path,
    *arguments: str,
    environment: dict | None = None,
    fork_jobs: bool = False,
) -> Running:
    """`snakemake` in the folder with two cores, in a process group of its own.

    It is forked from a process in which libraries (and nothing of ours) are loaded: most of what a dry run
    takes. (conftest.smoke_run is made by the command as users give it.)

    fork_jobs: its jobs are forked in turn, see _fork_scripts; who wants to find and disturb one leaves that.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LIBRARIES)
    said = tempfile.TemporaryFile()  # noqa: SIM115  (Running reads it in the end)
    process = server.Process(
        target=_snakemake,
        args=(
            folder,
            arguments,
            os.environ | variables(folder) | (environment or {}),
            DupFd(said.fileno()),
            fork_jobs,
        ),
    )
    process.start()
    running = Running(process, said)
    atexit.register(running.kill)  # if a test fails before its end, or pytest would wait for it
    return running


def variables(folder: Path) -> dict[str, str]:
    """For a Snakemake of which nothing is to remain outside the folder."""
    bytecode = {"PYTHONDONTWRITEBYTECODE": ""}  # or every job would compile the project's modules again
    return {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache"), **bytecode}


def snakemake(folder: Path, *arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
    """The same with forked jobs, waited for."""
    return start_snakemake(folder, *arguments, environment=environment, fork_jobs=True).ended()


def _snakemake(
    folder: Path,
    arguments: tuple[str, ...],
    environment: dict,
    said: DupFd,
    fork_jobs: bool,
) -> None:
    os.setsid()
    # a shell's background job ignores interrupts, and so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    output = said.detach()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["snakemake", *CORES, *arguments]
    assert "sharc_core" not in sys.modules  # the folder's own will be loaded
    if fork_jobs:
        _fork_scripts()
    main()


def _fork_scripts() -> None:
    """Of this Snakemake. A new Python takes seconds to load torch, most jobs here as long for all the rest.

    That it makes no difference to the bits is seen by every test that compares with conftest.smoke_run, whose
    jobs are started as users' are; so are SLURM's, and those that tests kill.
    """

    def execute(script: PythonScript, path: str, edit: bool = False) -> None:
        job = os.fork()  # multiprocessing's processes end in failure when forked from a thread
        if job == 0:
            _run_and_end(path, script.threads)
        with benchmarked(job, script.bench_record):
            status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
        if status:
            raise subprocess.CalledProcessError(status, f"python {path}")

    PythonScript.execute_script = execute


def _run_and_end(path: str, threads: int) -> None:
    status = 1
    try:
        _run_script(path, threads)
        status = 0
    except SystemExit as end:
        status = 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_script(path: str, threads: int) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    # what Snakemake tells a new process by variables that only count when libraries are loaded
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.argv = [path]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def own_lines(run: subprocess.CompletedProcess) -> list[str]:
    """What was said, line by line, without Snakemake's notice that it read profiles/default."""
    lines = (run.stdout + run.stderr).strip().splitlines()
    return [line for line in lines if not line.startswith("Using workflow specific profile")]


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
    for child in psutil.Process(process.pid).children(recursive=True):
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
