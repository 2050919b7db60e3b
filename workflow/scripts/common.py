"""What every script shares: the repository on the path, a log file per job, errors as one line."""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sharc_core.errors import UserError


@contextlib.contextmanager
def job(snakemake, name: str) -> Iterator[Callable[[str], None]]:
    """Run a job's body: what it prints goes to its log, progress lines to the terminal as well.

    A UserError becomes one line on the terminal that names the log, and exit status 1.
    """
    terminal = sys.stderr
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log, "w", encoding="utf-8", buffering=1) as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):

        def say(line: str) -> None:
            print(line, file=stream)
            print(f"[{name}] {line}", file=terminal, flush=True)

        try:
            date_now_what_is_from_the_future(snakemake.input)
            yield say
        except UserError as error:
            traceback.print_exc()
            print(f"error: {name}: {error} (log: {log})", file=terminal, flush=True)
            sys.exit(1)
        except BaseException:
            traceback.print_exc()
            print(f"error: {name} failed; the log says why: {log}", file=terminal, flush=True)
            raise


def date_now_what_is_from_the_future(paths: list[str]) -> None:
    """Inputs made where the clock is ahead of this machine's: Snakemake dates outputs by this one, and fails
    a job whose output looks older than an input. Nothing else depends on these times.
    """
    for path in paths:
        now = time.time_ns()
        with contextlib.suppress(OSError):  # a file that is not ours: Snakemake says what it thinks of it
            if os.stat(path).st_mtime_ns > now:
                os.utime(path, ns=(now, now))
