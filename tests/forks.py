"""Start programs by forking a process that has already loaded the libraries, because torch loads slowly.

The server process does not import sharc_core, so a fork behaves like a new process. conftest.smoke_run runs
the command as a user would; tests that compare with it show that forking does not change results. SLURM's
jobs and the jobs that tests kill are not forked.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import BinaryIO

import torch
from snakemake.benchmark import benchmarked
from snakemake.script import PythonScript
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from threadpoolctl import threadpool_limits

SECONDS = 1500  # time limit of a program
LIBRARIES = [
    *("snakemake.cli", "snakemake.api", "snakemake.scheduling.job_scheduler", "smart_open", "jinja2"),
    *("torch", "torch.fx.experimental.symbolic_shapes", "torch._meta_registrations", "torchvision"),
    *("pandas", "pydantic", "safetensors", "scipy.stats", "sklearn.datasets", "PIL.ImageFont"),
    # loads the list of fonts; otherwise the first figure of each folder scans the machine for fonts
    *("matplotlib.figure", "matplotlib.style", "matplotlib.backends.backend_agg", "fontTools.ttLib"),
    *("matplotlib.backends.backend_svg", "mpl_toolkits.mplot3d"),
]


class Running:
    """A started program, with the interface of subprocess.Popen."""

    def __init__(self, process: multiprocessing.process.BaseProcess, said: BinaryIO):
        self.pid = process.pid
        self._process, self._said = process, said

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while the program runs."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the program, not to its children. Do nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the program and its children, unless it has ended."""
        if self.poll() is not None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it was just forked and has no process group yet
            self.send_signal(signal.SIGKILL)

    def ended(self, within: float = SECONDS) -> subprocess.CompletedProcess:
        """Wait for the end and return the output as `stdout`. Kill the program after `within` seconds."""
        self._process.join(within)
        late = self.poll() is None
        if late:
            self.kill()
            self._process.join()
        said = self._said.fileno()  # the writers share its position, so it must not be moved
        text = os.pread(said, os.fstat(said).st_size, 0).decode()
        if late:
            raise subprocess.TimeoutExpired(self._process.name, within, text)
        return subprocess.CompletedProcess(self._process.name, self.poll(), text, "")


def start(command: list[str], folder: Path, variables: dict[str, str], fork_jobs: bool = False) -> Running:
    """Run `python -m` with the command in the folder, in a new process group.

    fork_jobs: if the command is Snakemake, fork its script jobs in the same way.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LIBRARIES)
    said = tempfile.TemporaryFile()  # noqa: SIM115  (Running reads it)
    given = (command, folder, os.environ | variables, DupFd(said.fileno()), fork_jobs)
    process = server.Process(target=_run, args=given, name=command[0])
    process.start()
    running = Running(process, said)
    atexit.register(running.kill)  # in case a test fails before the program ends: pytest would wait for it
    return running


def _run(command: list[str], folder: Path, environment: dict, said: DupFd, fork_jobs: bool) -> None:
    gc.freeze()  # the loaded modules are never freed; not scanning them makes a dry run a third faster
    os.setsid()
    # background jobs of a shell ignore interrupts, and their children inherit this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    output = said.detach()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    assert "sharc_core" not in sys.modules  # the package in the folder will be imported
    if fork_jobs:
        _fork_scripts()
    _look_every_second()
    sys.argv = command
    sys.path.insert(0, str(folder))  # as `python -m` does
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _look_every_second() -> None:
    """Poll SLURM every second; its executor waits longer after each poll in which no job has ended."""
    RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)


def _fork_scripts() -> None:
    """Make this process, which will become Snakemake, ask a child to fork for each Python script.

    It cannot fork itself, because a fork would inherit its threads and signal handlers.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _fork_on_request(theirs)
    theirs.close()

    def execute(script: PythonScript, path: str, edit: bool = False) -> None:
        read, write = os.pipe()
        socket.send_fds(ours, [f"{script.threads} {path}".encode()], [write])
        os.close(write)
        with open(read, "rb", buffering=0) as answer:
            job = int.from_bytes(answer.read(4))
            with benchmarked(job, script.bench_record):
                status = answer.read(1)
        if status != b"\0":
            # a killed job sends no status
            raise subprocess.CalledProcessError(status[0] if status else -signal.SIGKILL, f"python {path}")

    PythonScript.execute_script = execute


def _fork_on_request(requests: socket.socket) -> None:
    """Serve requests for forks until the requesting process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    while True:
        message, answers, *_ = socket.recv_fds(requests, 65536, 1)
        if not message:
            os._exit(0)
        (answer,) = answers
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            threads, path = message.decode().split(" ", maxsplit=1)
            os.write(answer, os.getpid().to_bytes(4))
            os.write(answer, bytes([_status_of(path, int(threads))]))
            os._exit(0)
        os.close(answer)


def _status_of(path: str, threads: int) -> int:
    """Run a script and return the exit status that a new Python process would have."""
    # Snakemake sets these by environment variables, which libraries read only when they are loaded
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.argv = [path]
    sys.path.insert(0, str(Path(path).parent))
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        return 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
