"""What a piece of work costs the machine: CPU seconds, energy and peak memory.

Energy is read from Linux's RAPL counters, which cover everything that the processors do meanwhile, and is NaN
where they cannot be read. It is never estimated from seconds.
"""

import ctypes
import gc
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

RAPL = Path("/sys/class/powercap")
PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # written to clear_refs: the peak becomes the present size, see man 5 proc_pid_clear_refs


@dataclass
class Spent:
    """Set when `spent` ends. NaN: not measured.

    user_seconds, system_seconds: CPU time of the process. joules: of all processor packages. peak_memory:
    the largest resident size of the process in bytes. memory_growth: the peak minus the size before.
    """

    user_seconds: float = math.nan
    system_seconds: float = math.nan
    joules: float = math.nan
    peak_memory: float = math.nan
    memory_growth: float = math.nan


@contextmanager
def spent() -> Iterator[Spent]:
    """Measure what is spent while the context is open."""
    result = Spent()
    gc.collect()
    return_free_memory()
    is_reset = _reset_peak()
    before, energy, cpu = _status("VmRSS"), _energies(), resource.getrusage(resource.RUSAGE_SELF)
    yield result
    after = resource.getrusage(resource.RUSAGE_SELF)
    result.user_seconds = after.ru_utime - cpu.ru_utime
    result.system_seconds = after.ru_stime - cpu.ru_stime
    result.joules = _joules(energy, _energies())
    if is_reset:
        result.peak_memory = _status("VmHWM")
        result.memory_growth = result.peak_memory - before


def _energies() -> dict[str, tuple[int, int]]:
    """Return (microjoules, value at which the counter restarts) of every package; empty if not readable."""
    energies = {}
    for folder in sorted(RAPL.glob("intel-rapl:*")):
        if folder.name.count(":") != 1:  # a part of a package
            continue
        try:
            counter, limit = (
                int((folder / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")
            )
        except (OSError, ValueError):
            return {}
        energies[folder.name] = counter, limit
    return energies


def _joules(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float:
    """Return the joules between two readings; NaN without them. A counter restarts at most once."""
    if not before or before.keys() != after.keys():
        return math.nan
    spent = 0
    for name, (counter, limit) in after.items():
        difference = counter - before[name][0]
        spent += difference + (limit if difference < 0 else 0)
    return spent / 1e6


def _status(name: str) -> float:
    """Return a size of this process in bytes from /proc/self/status; NaN where there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return float(line.split()[1]) * 1024
    return math.nan


def _reset_peak() -> bool:
    """Restart the count of the peak resident size; False where that is not possible."""
    try:
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def return_free_memory() -> None:
    """Let glibc return freed memory to the system, so that it cannot hide what is allocated next."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
