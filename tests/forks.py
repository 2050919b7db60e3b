"""Programs that are forked from a process with libraries loaded, since torch takes seconds to load.

Nothing of ours is loaded there, so all else is as in a process of its own. That it makes no difference to the
bits is what tests see that compare with conftest.smoke_run, which is made by the command as users give it.
SLURM starts its jobs itself, and those that tests kill are started, too.
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

SECONDS = 1500  # until a program that has not ended is killed
LIBRARIES = [
    *("snakemake.cli", "snakemake.api", "snakemake.scheduling.job_scheduler", "smart_open", "jinja2"),
    *("torch", "torch.fx.experimental.symbolic_shapes", "torch._meta_registrations", "torchvision"),
    *("pandas", "pydantic", "safetensors", "scipy.stats", "sklearn.datasets", "PIL.ImageFont"),
    # with the list of fonts, for which the first figure in each folder would search the machine
    *("matplotlib.figure", "matplotlib.style", "matplotlib.backends.backend_agg", "fontTools.ttLib"),
    *("matplotlib.backends.backend_svg", "mpl_toolkits.mplot3d"),
]


class Running:
    """A program that was started, much as subprocess.Popen has it."""

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
            raise subprocess.TimeoutExpired(self._process.name, within, text)
        return subprocess.CompletedProcess(self._process.name, self.poll(), text, "")


def start(command: list[str], folder: Path, variables: dict[str, str], fork_jobs: bool = False) -> Running:
    """`python -m` with the command's words, in the folder, in a process group of its own.

    fork_jobs: of a Snakemake, the jobs that are Python scripts are forked from such a process, too.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LIBRARIES)
    said = tempfile.TemporaryFile()  # noqa: SIM115  (Running reads it in the end)
    given = (command, folder, os.environ | variables, DupFd(said.fileno()), fork_jobs)
    process = server.Process(target=_run, args=given, name=command[0])
    process.start()
    running = Running(process, said)
    atexit.register(running.kill)  # if a test fails before its end, or pytest would wait for it
    return running


def _run(command: list[str], folder: Path, environment: dict, said: DupFd, fork_jobs: bool) -> None:
    gc.freeze()  # what was loaded is never freed: a dry run spends a third less time on looking through it
    os.setsid()
    # a shell's background job ignores interrupts, and so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    output = said.detach()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    assert "sharc_core" not in sys.modules  # the folder's own will be loaded
    if fork_jobs:
        _fork_scripts()
    _look_every_second()
    sys.argv = command
    sys.path.insert(0, str(folder))  # as `python -m` does
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _look_every_second() -> None:
    """SLURM's executor waits ten seconds longer after each look that finds no job ended; here, one second."""
    RemoteExecutor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)


def _fork_scripts() -> None:
    """Have this process, a Snakemake to be, ask a child for a fork where it would start Python with a script.

    It cannot fork them itself: it will have threads and handlers of signals, which a fork would inherit.
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
            # one that was killed has said nothing
            raise subprocess.CalledProcessError(status[0] if status else -signal.SIGKILL, f"python {path}")

    PythonScript.execute_script = execute


def _fork_on_request(requests: socket.socket) -> None:
    """Until nobody is left who could ask for one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
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
    """What a Python with this script would have ended with."""
    # what Snakemake tells a new process by variables, which only count when libraries are loaded
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
