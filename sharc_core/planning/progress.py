"""What a run shows: one line per finished job, and on a terminal a line with what is running.

Snakemake prints about ten lines per job, which is too much for hundreds of cells. Its log file in
.snakemake/log keeps these lines. A logger plugin (--logger), --verbose and --printshellcmds show Snakemake's
own output, and --quiet hides the lines printed here.
"""

import logging
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from sharc_core.common.errors import one_line

LOGGER, STREAM = "snakemake.logging", "DefaultStreamHandler"  # as Snakemake names them
HIDDEN_EVENTS = {
    *("job_info", "group_info", "shellcmd", "job_started", "job_finished", "progress", "resources_info"),
}
HIDDEN_STARTS = (
    *("Select jobs to execute", "Using shell: ", "Conda environments: ignored", "Complete log(s): "),
    *("Singularity containers: ignored", "Removing temporary output", "Group jobs: inactive"),
    *("Elapsed time: ", "Assuming unrestricted shared filesystem usage"),
)
# rules whose jobs are too short for a line
MOVES = {"all", "studies", "card", "document", "finished", "measured"}
LONG = {"data", "pretrain", "features", "cell", "cells", "study_job"}  # duration unknown until one is done
SHORT = 6.0  # assumed seconds of any other job; most of it starts Python
TICK = 1.0  # seconds between two updates of the line of what is running
CLEAR = "\r\033[K"


@dataclass
class Running:
    """A job that was started. name: its rule and wildcards."""

    rule: str
    name: str
    log: str
    began: float

    @property
    def short(self) -> str:
        """The name with the last part of a path."""
        return " ".join(dict.fromkeys([self.rule, self.name.rsplit("/", 1)[-1].rsplit(" ", 1)[-1]]))


class Progress(logging.Handler):
    """A handler that follows the records that Snakemake logs, and prints lines to a stream.

    hidden: rules whose jobs get no line. is_shown: False for a handler that only remembers which jobs failed.
    at_end: called when Snakemake reports that there is nothing to be done.
    """

    def __init__(
        self,
        hidden: Collection[str] = (),
        is_shown: bool = True,
        at_end: Callable[[], None] = lambda: None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(logging.INFO)
        self._hidden, self._is_shown, self._at_end = MOVES | set(hidden), is_shown, at_end
        self._stream, self._clock = stream or sys.stderr, clock
        self._is_terminal = is_shown and self._stream.isatty()
        self.failed: dict[int, Running] = {}
        self._running: dict[int, Running] = {}
        self._left: Counter[str] = Counter()
        self._took: dict[str, list[float]] = {}
        self._done, self._at_once = 0, 1  # jobs done; recent maximum of simultaneous jobs
        self._stopped = threading.Event()

    # --- Snakemake's records -----------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Update the state from a log record, and print what follows from it."""
        event, fields = _event(record), record.__dict__
        if event == "run_info":
            self._left = Counter(
                {r: n for r, n in fields["stats"].items() if r not in self._hidden | {"total"}}
            )
        elif event == "job_info":
            self._start(fields)
        elif event == "job_finished":
            self._finish(fields["job_id"])
        elif event == "job_error":
            self._fail(fields)
        elif event == "group_error":
            for job in fields["job_error_info"]:
                self._fail(job)
        elif "Nothing to be done" in str(record.msg):
            self._at_end()

    def _start(self, fields: Mapping[str, Any]) -> None:
        rule = fields["rule_name"]
        name = " ".join([rule, *map(str, fields["wildcards"].values())])
        log = ", ".join(fields["log"])
        self._running[fields["jobid"]] = Running(rule, one_line(name), log, self._clock())
        self._at_once = max(self._at_once, len(self._running))
        self._redraw()

    def _finish(self, number: int) -> None:
        job = self._running.pop(number, None)
        self.failed.pop(number, None)  # an attempt that failed before
        if job is None or job.rule in self._hidden:
            return
        self._done += 1
        self._left[job.rule] = max(0, self._left[job.rule] - 1)
        if not self._left[job.rule]:  # jobs of another rule may share the machine differently
            self._at_once = max(1, len(self._running))
        took = self._clock() - job.began
        self._took.setdefault(job.rule, []).append(took)
        total = self._done + sum(self._left.values())
        tail = [duration(took), *self._outlook("more running")]
        if self._is_shown:
            self.print(f"[{self._done:>{len(str(total))}}/{total}] {job.name} ({', '.join(tail)})")

    def _fail(self, fields: Mapping[str, Any]) -> None:
        log = ", ".join(fields["log"])
        job = Running(fields["rule_name"], fields["rule_name"], log, self._clock())
        self.failed[fields["jobid"]] = self._running.pop(fields["jobid"], job)
        self._redraw()

    def failures(self) -> list[str]:
        """Return one line per job that failed, with its log."""
        return [f"Failed: {job.name} (log: {job.log or 'none'})" for job in self.failed.values()]

    # --- what is still to come ---------------------------------------------------------------------------

    def _outlook(self, running: str = "running") -> list[str]:
        """Return what is running and how long it may still take, in words."""
        shown = [job for job in self._running.values() if job.rule not in self._hidden]
        words = [f"{len(shown)} {running}"] if shown else []
        left = self.seconds_left()
        if left is not None and any(self._left.values()):
            is_known = all(rule in self._took for rule in LONG if self._left[rule])
            words.append(f"{'about' if is_known else 'more than'} {duration(left)} left")
        return words

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the end from the jobs of each rule so far; None before any is done.

        Jobs of a long rule do not count until one of them is done.
        """
        if not self._took:
            return None
        mean = {rule: sum(took) / len(took) for rule, took in self._took.items()}
        work = sum(
            count * mean.get(rule, 0.0 if rule in LONG else SHORT) for rule, count in self._left.items()
        )
        now, running = self._clock(), [job for job in self._running.values() if job.rule in mean]
        work -= sum(min(now - job.began, mean[job.rule]) for job in running)
        return max(work, 0.0) / min(self._at_once, max(1, sum(self._left.values())))

    # --- lines -------------------------------------------------------------------------------------------

    def show(self, record: logging.LogRecord) -> bool:
        """Return whether Snakemake's own handler shows a record. `follow` adds this as a filter to it."""
        if _event(record) in HIDDEN_EVENTS or str(record.msg).startswith(HIDDEN_STARTS):
            return False
        self._erase()
        return True

    def start_ticking(self) -> None:
        """On a terminal, update the line with the running jobs every TICK seconds."""
        if self._is_terminal:
            threading.Thread(target=self._tick, name="progress", daemon=True).start()

    def _tick(self) -> None:
        while not self._stopped.wait(TICK):
            self.acquire()
            try:
                self._redraw()
            finally:
                self.release()

    def close(self) -> None:
        """Stop, and leave the terminal's line empty."""
        self._stopped.set()
        self._erase()
        super().close()

    def print(self, line: str) -> None:
        """Print a line above the line with the running jobs."""
        self._erase()
        print(line, file=self._stream, flush=True)
        self._redraw()

    def _erase(self) -> None:
        if self._is_terminal:
            self._stream.write(CLEAR)
            self._stream.flush()

    def _redraw(self) -> None:
        """Write the running jobs into the terminal's last line; the cursor stays at its start."""
        if not self._is_terminal or self._stopped.is_set():
            return
        now = self._clock()
        shown = [job for job in self._running.values() if job.rule not in self._hidden]
        jobs = [f"{job.short} {duration(now - job.began)}" for job in shown]
        total = self._done + sum(self._left.values())
        words = [f"{self._done} of {total} done", *self._outlook()]
        line = f"{', '.join(words)}: {'; '.join(jobs)}" if jobs else ""
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"{CLEAR}{line if len(line) <= width else line[: width - 3] + '...'}\r")
        self._stream.flush()


def _event(record: logging.LogRecord) -> str | None:
    event = getattr(record, "event", None)
    return getattr(event, "value", event)


def duration(seconds: float) -> str:
    """Return a duration in words: 4 s, 3 min, 2 h 5 min."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 job, 2 jobs."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def follow(workflow: Any, is_run: bool, hidden: Collection[str], at_end: Callable[[], None]) -> Progress:
    """Attach a Progress to Snakemake's logger and return it. is_run: False for a dry run.

    It shows nothing if the options ask for Snakemake's own lines, or if Snakemake's handler is unknown.
    """
    logger, settings = logging.getLogger(LOGGER), workflow.output_settings
    handlers = [handler for handler in logger.handlers if handler.name == STREAM]
    quiet = {choice.name.lower() for choice in settings.quiet or ()}
    is_wanted = not (quiet & {"all", "progress"} or settings.verbose or settings.printshellcmds)
    progress = Progress(hidden, bool(is_run and handlers and is_wanted), at_end)
    if is_run and handlers and is_wanted:
        handlers[0].addFilter(progress.show)
        progress.start_ticking()
    logger.addHandler(progress)
    return progress
