"""Run a real SLURM on this machine during a test: munged, slurmctld and slurmd in one folder.

It has one node with two cores, the partitions `cpu` and `gpu`, and two GPUs that exist only as a count. It
needs root and Debian's slurm-wlm and munge, installs nothing, and leaves no process running.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol", "setpriv")
PATIENCE = 60  # time limit in seconds for a daemon to answer or a job to end

# Everything runs as root, so user slurm needs no access to other folders. SLURM polls memory every second and
# kills a step that exceeds its request. It does not use control groups, which not every machine permits. With
# config_overrides the node has the configured resources, whatever the machine has.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SwitchType=switch/none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobCompType=jobcomp/none
MinJobAge=3600
KillWait=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 \
RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""

# slurmd counts only GPUs that have a device file; jobs do not see these files.
GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"

SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


def missing() -> str | None:
    """Return why SLURM cannot be started here, or None if it can."""
    if os.geteuid() != 0:
        return "a SLURM of one's own needs root (slurmd runs as nobody else)"
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return None


def _path() -> str:
    """Return PATH with the folders of the daemons, which Debian leaves out of a user's path."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class Slurm:
    """A running SLURM. `environment` has the variables with which commands and Snakemake reach it."""

    def __init__(self, folder: Path):
        self.folder = folder
        path = os.pathsep.join([str(folder / "bin"), _path()])
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self._daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start the daemons and wait until the node is idle."""
        (self.folder / "munge.key").touch(0o600)
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        for name in ("spool", "state", "bin"):
            (self.folder / name).mkdir()
        # Snakemake's executor removes SLURM_CONF from srun, which then only looks in /etc
        wrapper = self.folder / "bin/srun"
        wrapper.write_text(SRUN.format(folder=self.folder, srun=shutil.which("srun", path=_path())))
        wrapper.chmod(0o755)
        controller_port, node_port = _free_ports(2)
        text = CONFIGURATION.format(
            folder=self.folder,
            host=socket.gethostname().split(".")[0],
            controller_port=controller_port,
            node_port=node_port,
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GPUS)
        places = {name: self.folder / f"munge.{name}" for name in ("socket", "log", "pid", "seed")}
        files = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in places.items()]
        self._run("munged", "--foreground", f"--key-file={self.folder / 'munge.key'}", *files)
        self._wait_for(places["socket"].exists, "munged")
        self._run("slurmctld", "-D")
        self._run("slurmd", "-D")
        self._wait_for(lambda: self.ask("sinfo", "--noheader", "--format=%T").startswith("idle"), "the node")

    def ask(self, *command: str) -> str:
        """Return the output of a SLURM command, empty if it fails."""
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        return done.stdout if done.returncode == 0 else ""

    def jobs(self) -> dict[str, dict[str, str]]:
        """Return the fields of `scontrol show job` for every job since the start, by job number."""
        found = {}
        for line in self.ask("scontrol", "show", "job", "--oneliner").splitlines():
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "JobId" in fields:
                found[fields["JobId"]] = fields
        return found

    def cancel(self, job: str) -> None:
        """Cancel a job as its user would."""
        subprocess.run(["scancel", job], env=self._environment(), check=True)

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons and kill the remaining processes of this SLURM."""
        with contextlib.suppress(AssertionError):
            self.ask("scancel", "--full", "--user=root")
            self._wait_for(lambda: not self.ask("squeue", "--noheader"), "the end of the jobs", 10)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Return all processes that use this SLURM's configuration: daemons, job steps and jobs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if ours and process.pid != os.getpid():
                    found.append(process)
        return found

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _run(self, *command: str) -> None:
        """Start a daemon that receives SIGTERM when this process dies for any reason."""
        with open(self.folder / f"{command[0]}.out", "w") as said:
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *command],
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
            )

    def _wait_for(self, found, what: str, seconds: int = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found():
                return
            time.sleep(0.1)
        said = "".join(f"\n{path.name}: {path.read_text()[-2000:]}" for path in self.folder.glob("*.out"))
        raise AssertionError(f"{what} did not come up within {seconds} s{said}")


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running() -> Iterator[Slurm]:
    """Run SLURM in a temporary folder until the block ends."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        Path(folder).chmod(0o755)  # munged requires a reachable socket
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
