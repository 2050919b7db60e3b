"""What every script shares: the repository on the path, a log file per job, errors as one line."""

import contextlib
import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sharc_core.common.errors import UserError, one_line
from sharc_core.common.files import FULL, disk_errors


class Log(io.TextIOWrapper):
    """A job's log. What a full disk does not take is lost: no job fails because of what it says."""

    def __init__(self, path: Path):
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("wb")
        # a file's name need not be text
        super().__init__(stream, "utf-8", errors="backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        """Write what there is room for."""
        with _room_or_not():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what there is room for."""
        with _room_or_not():
            super().flush()

    def close(self) -> None:
        """Close, whatever is left unwritten."""
        with _room_or_not():
            super().close()


@contextlib.contextmanager
def _room_or_not() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


@contextlib.contextmanager
def job(snakemake, name: str) -> Iterator[Callable[[str], None]]:
    """Run a job's body: what it prints goes to its log, progress lines to the terminal as well.

    A UserError becomes one line on the terminal that names the log, and exit status 1.
    """
    terminal = sys.stderr
    path = Path(snakemake.log[0])
    try:
        log = Log(path)
    except UserError as error:
        print(f"error: {name}: {error}", file=terminal, flush=True)
        sys.exit(1)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):

        def say(line: str) -> None:
            print(line, file=log)
            print(one_line(f"[{name}] {line}"), file=terminal, flush=True)

        try:
            date_now_what_is_from_the_future(snakemake.input)
            yield say
        except UserError as error:
            traceback.print_exc()
            print(f"error: {name}: {error} (log: {path})", file=terminal, flush=True)
            sys.exit(1)
        except BaseException:
            traceback.print_exc()
            print(f"error: {name} failed; the log says why: {path}", file=terminal, flush=True)
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
