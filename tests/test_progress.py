"""The progress display: a line per finished job, running jobs on a terminal, failed jobs, the summary."""

import io
import logging
from types import SimpleNamespace

import pytest
from snakemake.logging import ColorizingTextHandler, LoggerManager
from snakemake_interface_logger_plugins.common import LogEvent

from sharc_core.planning import progress as module
from sharc_core.planning.progress import CLEAR, LOGGER, STREAM, Progress, duration, follow

CELLS = {"features": 1, "cell": 4, "tables": 1, "all": 1, "total": 7}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Run:
    """Sends log records as Snakemake does, with a manual clock."""

    def __init__(self, stream=None, **arguments):
        self.now, self.number = 0.0, 0
        self.stream = stream or io.StringIO()
        self.progress = Progress(stream=self.stream, clock=lambda: self.now, **arguments)

    def log(self, event=None, message="", **fields) -> None:
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, message, None, None)
        record.__dict__.update(fields)
        if event is not None:
            record.event = event
        self.progress.handle(record)

    def start(self, rule: str, log: str = "a.log", **wildcards) -> int:
        self.number += 1
        job = {"jobid": self.number, "rule_name": rule, "wildcards": wildcards, "log": [log]}
        self.log(LogEvent.JOB_INFO, **job)
        return self.number

    def finish(self, job: int, after: float = 0.0) -> None:
        self.now += after
        self.log(LogEvent.JOB_FINISHED, job_id=job)

    def fail(self, job: int, rule: str = "cell", log: str = "a.log") -> None:
        self.log(LogEvent.JOB_ERROR, jobid=job, rule_name=rule, log=[log])

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def test_one_line_per_job_with_what_is_left():
    run = Run()
    run.log(LogEvent.RUN_INFO, stats=CELLS)
    run.finish(run.start("features", cache="s_digits/net/view0"), after=40)
    assert run.lines == ["[1/6] features s_digits/net/view0 (40 s, more than 6 s left)"]
    first, second = run.start("cell", cell="s_digits/net/sgd"), run.start("cell", cell="s_digits/net/er")
    run.finish(first, after=10)
    # remaining: three cells of 10 s, of which one has run for 10 s, and the tables; two jobs at a time
    assert run.lines[1] == "[2/6] cell s_digits/net/sgd (10 s, 1 more running, about 13 s left)"
    third = run.start("cell", cell="s_digits/net/gem")
    run.finish(second)
    run.finish(third, after=20)
    run.finish(run.start("cell", cell="s_digits/net/mer"), after=10)
    assert run.lines[-1] == "[5/6] cell s_digits/net/mer (10 s, about 6 s left)"
    run.finish(run.start("all"))
    run.finish(run.start("tables"), after=120)
    assert len(run.lines) == 6 and run.lines[-1] == "[6/6] tables (2 min)"


def test_jobs_that_only_move_files_and_targets_get_no_line():
    run = Run(hidden=["norms"])
    run.log(
        LogEvent.RUN_INFO, stats={"cells": 1, "document": 8, "card": 1, "norms": 1, "all": 1, "total": 12}
    )
    for rule in ("card", "document", "norms", "all"):
        run.finish(run.start(rule))
    run.finish(run.start("cells", dataset="s_digits", backbone="net", batch="er-1"), after=3)
    assert run.lines == ["[1/1] cells s_digits net er-1 (3 s)"]


def test_an_attempt_that_failed_is_forgotten_once_the_job_succeeds():
    run = Run()
    run.log(LogEvent.RUN_INFO, stats=CELLS)
    job, other = run.start("cell", cell="a/b/er"), run.start("cell", "logs/gem.log", cell="a/b/gem")
    run.fail(job)
    run.fail(other)
    again = {"jobid": job, "rule_name": "cell", "wildcards": {"cell": "a/b/er"}, "log": ["a.log"]}
    run.log(LogEvent.JOB_INFO, **again)
    run.finish(job)
    assert run.progress.failures() == ["Failed: cell a/b/gem (log: logs/gem.log)"]


def test_jobs_of_a_group_that_failed_on_a_cluster():
    run = Run()
    jobs = [{"jobid": 7, "rule_name": "cell", "log": ["x.log"]}, {"jobid": 8, "rule_name": "card", "log": []}]
    run.log(LogEvent.GROUP_ERROR, job_error_info=jobs)
    assert run.progress.failures() == ["Failed: cell (log: x.log)", "Failed: card (log: none)"]


def test_a_name_holds_no_commands_to_the_terminal():
    run = Run()
    run.finish(run.start("features", cache="a\x1b[31m\nb"))
    assert run.lines[0].startswith(r"[1/1] features a\x1b[31m\nb (")


def test_nothing_to_be_done_ends_with_the_last_line():
    told = []
    run = Run(at_end=lambda: told.append("Report"))
    run.log(message="Building DAG of jobs...")
    assert told == []
    run.log(message="Nothing to be done (all requested files are present and up to date).")
    assert told == ["Report"]


def test_a_silent_one_remembers_failures():
    run = Run(is_shown=False)
    run.log(LogEvent.RUN_INFO, stats=CELLS)
    run.finish(run.start("features", cache="x"))
    run.fail(run.start("cell", cell="a/b/er"))
    assert run.lines == [] and len(run.progress.failures()) == 1


# --- a terminal ------------------------------------------------------------------------------------


def last_line(stream: io.StringIO) -> str:
    """Return the last line of the terminal."""
    return stream.getvalue().rsplit("\n", 1)[-1].split(CLEAR)[-1].rstrip("\r")


def test_a_terminal_shows_what_runs(monkeypatch):
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda *_, **__: SimpleNamespace(columns=100))
    run = Run(Terminal())
    run.log(LogEvent.RUN_INFO, stats=CELLS)
    run.finish(run.start("features", cache="s_digits/net/view0"), after=40)
    assert last_line(run.stream) == "", "nothing runs"
    first, _ = run.start("cell", cell="s_digits/net/sgd"), run.start("cell", cell="s_digits/net/er")
    run.now += 3
    run.progress._redraw()
    assert last_line(run.stream) == "1 of 6 done, 2 running, more than 3 s left: cell sgd 3 s; cell er 3 s"
    run.finish(first, after=7)
    assert "\r\033[K[2/6] cell s_digits/net/sgd (10 s, 1 more running" in run.stream.getvalue()
    assert last_line(run.stream).startswith("2 of 6 done, 1 running, about 13 s left: cell er 10 s")
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda *_, **__: SimpleNamespace(columns=40))
    run.progress._redraw()
    assert len(last_line(run.stream)) == 39 and last_line(run.stream).endswith("...")
    run.progress.close()
    assert last_line(run.stream) == ""
    run.progress._redraw()
    assert last_line(run.stream) == "", "closed"


# --- Snakemake's own lines -------------------------------------------------------------------------


def settings(**changes) -> SimpleNamespace:
    return SimpleNamespace(**{"quiet": set(), "verbose": False, "printshellcmds": False} | changes)


@pytest.fixture
def logger():
    """Snakemake's logger with its default handler, and the stream of the handler."""
    logger, stream = logging.getLogger(LOGGER), io.StringIO()
    before = logger.handlers
    handler = ColorizingTextHandler(stream=stream)
    handler.name = STREAM
    logger.handlers = [handler]
    yield logger, stream
    logger.handlers = before


def attached(logger, is_run: bool = True, **changes) -> tuple[bool, bool]:
    """Return whether Progress prints lines and whether Snakemake's lines about jobs are hidden."""
    workflow = SimpleNamespace(output_settings=settings(**changes))
    progress = follow(workflow, is_run, [], lambda: None)
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, "x", None, None)
    record.event = LogEvent.JOB_INFO
    hides = not all(handler.filter(record) for handler in logger.handlers if handler is not progress)
    shows = progress._is_shown
    logger.removeHandler(progress)
    progress.close()
    return shows, hides


def test_progress_replaces_snakemakes_lines(logger):
    logger, _ = logger
    assert attached(logger) == (True, True)
    error = logging.LogRecord("snakemake", logging.ERROR, "", 0, "Error in rule cell:", None, None)
    error.event = LogEvent.JOB_ERROR
    assert logger.handlers[0].filter(error), "errors are shown"


@pytest.mark.parametrize("changes", [{"verbose": True}, {"printshellcmds": True}])
def test_progress_is_off_if_snakemakes_lines_are_requested(logger, changes):
    assert attached(logger[0], **changes) == (False, False)


@pytest.mark.parametrize("choice", ["PROGRESS", "ALL"])
def test_quiet_option_hides_progress(logger, choice):
    from snakemake.settings.enums import Quietness

    assert attached(logger[0], quiet={Quietness[choice]}) == (False, False)
    assert attached(logger[0], quiet={Quietness.REASON, Quietness.HOST}) == (True, True)


def test_a_dry_run_and_a_logger_plugin_are_left_alone(logger):
    logger, _ = logger
    assert attached(logger, is_run=False) == (False, False)
    logger.handlers[0].name = "another"
    assert attached(logger) == (False, False)


def test_snakemake_has_the_internals_that_are_used():
    """The names are undocumented. If one changed, Snakemake's own lines would be shown."""
    events = {event.value for event in LogEvent}
    assert events >= {*module.HIDDEN_EVENTS, "run_info", "job_error", "group_error"}
    assert STREAM in LoggerManager._default_streamhandler.__code__.co_consts
    from snakemake import logging as snakemakes

    assert snakemakes.logger.name == LOGGER


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "1 s"), (4.4, "4 s"), (99, "99 s"), (100, "2 min"), (5000, "83 min"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
