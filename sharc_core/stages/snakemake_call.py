"""How Snakemake was called: to plan, to look, or to run; and what is to be run whatever is there."""

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

# What Snakemake can be asked for besides running jobs; it is then shown every job that there could be.
LOOKS = (
    *("report", "summary", "detailed_summary", "dag", "rulegraph", "filegraph", "d3dag", "lint"),
    *("list_rules", "list_target_rules", "list_untracked", "list_input_changes", "list_params_changes"),
    *("delete_all_output", "delete_temp_output", "archive", "containerize", "generate_unit_tests"),
    *("unlock", "cleanup_metadata", "conda_cleanup_envs", "conda_create_envs_only", "touch"),
)


class Call:
    """A call of Snakemake. workflow: its object, in the Snakefile."""

    def __init__(self, workflow: Any):
        self._workflow = workflow
        self.is_main = workflow.is_main_process
        self._options = _options() if self.is_main else {}
        self.is_dry = bool(self._given("dryrun")) or self._given("executor") == "dryrun"
        self.compares = self.is_main and not any(map(self._given, LOOKS))

    def _given(self, name: str) -> Any:
        value = self._options.get(name)
        return value if value not in ([], set(), ()) else None

    def is_forced(self, rules: Iterable[str], path: str) -> bool:
        """Whether a file, which one of the rules makes, is to be made again whatever is there."""
        asked = set(self._given("forcerun") or ())
        if self._given("force"):
            asked |= set(self._given("targets") or ())
        return bool(self._given("forceall")) or not asked.isdisjoint(rules) or _names(path, asked)

    def is_target(self, path: str) -> bool:
        """Whether a file was asked for by its name."""
        return _names(path, self._given("targets") or ())

    def force(self, paths: Iterable[str]) -> None:
        """Have the jobs that make these files run, those of them that the targets need.

        Snakemake's own `--forcerun` would make targets of them. It sets up its graph only when it has read
        the Snakefile, so that is done right after.
        """
        workflow, prepare, forced = self._workflow, self._workflow._prepare_dag, set(paths)

        def prepared(*arguments: Any, **further: Any) -> None:
            prepare(*arguments, **further)
            workflow._dag.forcefiles.update(forced)

        workflow._prepare_dag = prepared


def _names(path: str, asked: Iterable[str]) -> bool:
    """Whether a path is among those that were asked for, however it is spelt."""
    asked = set(asked)
    return bool(asked) and os.path.abspath(path) in {os.path.abspath(name) for name in asked}


def _options() -> dict[str, Any]:
    """Of the command line, as Snakemake's own parser reads them, `-nq` and `--dry` as well as `--dry-run`."""
    from snakemake.cli import get_argument_parser

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            known, _ = get_argument_parser().parse_known_args(sys.argv[1:])
    except SystemExit:  # called by another program, with words of its own
        return {}
    return vars(known)
