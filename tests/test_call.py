"""Options of the Snakemake call, read with Snakemake's parser: dry runs, inspection, forced targets."""

import inspect
import sys
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.dag import DAG
from snakemake.workflow import Workflow

from sharc_core.planning.call import LOOKS, Call


@pytest.fixture
def called(monkeypatch):
    def call(*arguments: str, is_main: bool = True) -> Call:
        monkeypatch.setattr(sys, "argv", ["snakemake", *arguments])
        return Call(SimpleNamespace(is_main_process=is_main))

    return call


DRY = [
    *(["-n"], ["-np"], ["-nq"], ["-nF"], ["-Fn"], ["-pn"], ["-n", "-q"], ["--dry-run"], ["--dryrun"]),
    *(["--dry-r"], ["-nf"], ["--cores", "2", "-n"], ["-c2", "-n"], ["-nc2"], ["--executor", "dryrun"]),
    *(["-n", "--", "results/runs.csv"], ["--configfile", "config/paper.yaml", "-n"], ["-q", "rules", "-n"]),
]
WET = [
    *([], ["--cores", "2"], ["-c", "2"], ["--configfile", "-n.yaml"], ["--cores", "2", "n"], ["-p"], ["-F"]),
    *(["--config", "results_dir=--dry-run"], ["--", "-n"], ["-R", "n"], ["--cores", "2", "--", "--dry-run"]),
]


@pytest.mark.parametrize("arguments", DRY)
def test_every_spelling_of_a_dry_run_is_recognised(called, arguments):
    assert called(*arguments).is_dry and called(*arguments).compares


@pytest.mark.parametrize("arguments", WET)
def test_a_run_is_no_dry_run(called, arguments):
    assert not called(*arguments).is_dry


@pytest.mark.parametrize(
    "arguments",
    [["--report"], ["--report", "x.zip"], ["--summary"], ["--delete-all-output"], ["--unlock"], ["--touch"]],
)
def test_inspecting_calls_skip_the_comparison(called, arguments):
    assert not called(*arguments).compares


def test_a_job_compares_nothing(called):
    assert not called("--cores", "1", is_main=False).compares


def test_arguments_of_another_program_are_ignored(called):
    """Snakemake may be used as a library; here pytest's arguments are in sys.argv."""
    call = called("-k", "-x", "--no-such-option", "--cores")
    assert not call.is_dry and call.compares and not call.is_forced(["cell"], "a.json")


def test_forced_rules_and_files_are_recognised(called):
    assert called("-R", "cell").is_forced(["cell"], "a/b.json")
    assert called("--forcerun", "x", "./a/../a/b.json").is_forced(["cell"], "a/b.json")
    assert called("-F").is_forced(["cell"], "a/b.json")
    assert called("-f", "a/b.json").is_forced(["cell"], "a/b.json")
    assert called("--force", "a/b.json", "--cores", "2").is_forced(["cell"], "a/b.json")
    for arguments in (["a/b.json"], ["-R", "cells"], ["-f", "a/c.json"], ["-R", "a"], []):
        assert not called(*arguments).is_forced(["cell"], "a/b.json"), arguments
    assert called("a//b.json").is_target("a/b.json") and not called("a").is_target("a/b.json")


def test_requested_targets_are_recognised_by_file_and_rule(monkeypatch):
    def call(*arguments: str, rename: str = "{}") -> Call:
        monkeypatch.setattr(sys, "argv", ["snakemake", *arguments])
        return Call(
            SimpleNamespace(is_main_process=True, modifier=SimpleNamespace(modify_rulename=rename.format))
        )

    assert call().asks_for("r.html", "all", "report") and not call().asks_for("r.html", "report")
    assert call("report").asks_for("r.html", "all", "report") and call("./r.html").asks_for("r.html", "all")
    assert not call("runs").asks_for("r.html", "all", "report")
    assert call("my_report", rename="my_{}").asks_for("r.html", "all", "report")
    assert call("a", "./b").requested(["a", "b", "c"], ["a"]) == ["b"]
    assert call("a", "--report").requested(["a"], []) == []
    named = call("--forcerun", "my_cell", rename="my_{}")
    assert named.forced(["a"], "cell") == ["a"] == named.offered(["a"], lambda path: True, "cell")
    assert call("-R", "cell", "--report").forced(["a"], "cell") == []
    assert call().offered(["a", "b"], "a".__eq__, "cell") == ["b"]
    assert call("--summary").offered(["a", "b"], "a".__eq__, "cell") == ["a", "b"]


def test_snakemake_has_the_options_and_internals_that_are_used():
    """Check the names of options and two undocumented attributes."""
    options = {action.dest for action in get_argument_parser()._actions}
    assert {*LOOKS, "dryrun", "executor", "forcerun", "forceall", "force", "targets"} <= options
    assert "self._dag = DAG(" in inspect.getsource(Workflow._prepare_dag)
    assert "self.forcefiles" in inspect.getsource(DAG)


def test_forced_files_are_added_to_snakemakes_own():
    dag = SimpleNamespace(forcefiles={"a"})
    workflow = SimpleNamespace(is_main_process=False, _dag=None)

    def prepare(forceall, lock_warn_only=False):
        assert forceall and lock_warn_only
        workflow._dag = dag

    workflow._prepare_dag = prepare
    call = Call(workflow)
    call.force(["b"])
    call.force(["c"])
    workflow._prepare_dag(True, lock_warn_only=True)
    assert dag.forcefiles == {"a", "b", "c"}
