"""Shared by all scripts: the repository on the path, a log file per job, errors in one line."""

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

CLEAR = "\r\033[K"  # the terminal's line


class Log(io.TextIOWrapper):
    """A job's log file. On a full disk lines are lost, but no job fails because of its log."""

    def __init__(self, path: Path):
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("wb")
        # a file's name need not be text
        super().__init__(stream, "utf-8", errors="backslashreplace", line_buffering=True)

    def write(self, text: str) -> int:
        """Write as much as the disk has room for."""
        with _full_disk_ignored():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as much as the disk has room for."""
        with _full_disk_ignored():
            super().flush()

    def close(self) -> None:
        """Close the file, even if something is left unwritten."""
        with _full_disk_ignored():
            super().close()


@contextlib.contextmanager
def _full_disk_ignored() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


@contextlib.contextmanager
def job(snakemake, name: str) -> Iterator[Callable[[str], None]]:
    """Run a job's body with its output in the log; the yielded function prints to the terminal as well.

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
            # Snakemake's process may have a line of what is running there
            clear = CLEAR if terminal.isatty() else ""
            print(clear + one_line(f"[{name}] {line}"), file=terminal, flush=True)

        try:
            clamp_future_mtimes(snakemake.input)
            yield say
        except UserError as error:
            traceback.print_exc()
            print(f"error: {name}: {error} (log: {path})", file=terminal, flush=True)
            sys.exit(1)
        except BaseException:
            traceback.print_exc()
            print(f"error: {name} failed, see the log: {path}", file=terminal, flush=True)
            raise


def clamp_future_mtimes(paths: list[str]) -> None:
    """Set modification times in the future to now.

    They come from machines whose clock is ahead of this one's. Snakemake fails a job whose output looks older
    than an input. Nothing else depends on these times.
    """
    for path in paths:
        now = time.time_ns()
        with contextlib.suppress(OSError):  # a file that is not ours
            if os.stat(path).st_mtime_ns > now:
                os.utime(path, ns=(now, now))
