"""The options of a call of Snakemake: whether it runs jobs, its targets, and the files that it forces."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

# Options with which Snakemake runs no jobs. The rules then offer every possible job.
LOOKS = (
    *("report", "summary", "detailed_summary", "dag", "rulegraph", "filegraph", "d3dag", "lint"),
    *("list_rules", "list_target_rules", "list_untracked", "list_input_changes", "list_params_changes"),
    *("delete_all_output", "delete_temp_output", "archive", "containerize", "generate_unit_tests"),
    *("unlock", "cleanup_metadata", "conda_cleanup_envs", "conda_create_envs_only", "touch"),
)


class Call:
    """A call of Snakemake. workflow: its object, in the Snakefile.

    is_main: this is Snakemake's main process, not that of a job. is_dry: a dry run, with any spelling of
    the option. compares: the call compares the files on disk with the grid and omits finished ones.
    """

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
        """Return whether a file of one of the rules is to be made again even if it is finished."""
        names = set(self._given("forcerun") or ())
        if self._given("force"):
            names |= set(self._given("targets") or ())
        return bool(self._given("forceall")) or not names.isdisjoint(rules) or _names(path, names)

    def is_target(self, path: str) -> bool:
        """Return whether a file was requested by its name."""
        return _names(path, self._given("targets") or ())

    def asks_for(self, path: str | None, *rules: str) -> bool:
        """Return whether a file was requested by its name, by a rule, or by default if `all` is a rule.

        path: None if only the rules count.
        """
        targets, is_named = self._given("targets"), path is not None and self.is_target(path)
        return is_named or not set(targets or ["all"]).isdisjoint(self._spelt(rules))

    def forced(self, paths: Iterable[str], *rules: str) -> list[str]:
        """Return the files that are to be made again even if they are finished. rules: that make them."""
        if not self.compares:
            return []
        names = self._spelt(rules)
        return [path for path in paths if self.is_forced(names, path)]

    def offered(self, paths: Iterable[str], is_finished: Callable[[str], bool], *rules: str) -> list[str]:
        """Return the files that rules offer to make: unfinished ones, and those that are to be made again."""
        if not self.compares:
            return list(paths)
        names = self._spelt(rules)
        return [path for path in paths if self.is_forced(names, path) or not is_finished(path)]

    def requested(self, paths: Iterable[str], offered: Iterable[str]) -> list[str]:
        """Return finished files that were requested by name. A rule for them has nothing to do."""
        finished = set(paths) - set(offered)
        return [path for path in paths if self.compares and path in finished and self.is_target(path)]

    def _spelt(self, rules: Iterable[str]) -> list[str]:
        """Return the names of rules, which a workflow that uses this one as a module may have changed."""
        return [self._workflow.modifier.modify_rulename(rule) for rule in rules]

    def force(self, paths: Iterable[str]) -> None:
        """Make Snakemake run the jobs of these files, as far as the targets need them.

        Its own `--forcerun` would make targets of them. Snakemake sets up its graph after it has read the
        Snakefile, so the files are added right after that.
        """
        workflow, prepare, forced = self._workflow, self._workflow._prepare_dag, set(paths)

        def prepared(*arguments: Any, **further: Any) -> None:
            prepare(*arguments, **further)
            workflow._dag.forcefiles.update(forced)

        workflow._prepare_dag = prepared


def _names(path: str, requested: Iterable[str]) -> bool:
    """Return whether a path is among the requested ones, in any spelling."""
    requested = set(requested)
    return bool(requested) and os.path.abspath(path) in {os.path.abspath(name) for name in requested}


def _options() -> dict[str, Any]:
    """Return the options of the command line, read by Snakemake's own parser: -n, -nq, -nF, --dry-run ..."""
    from snakemake.cli import get_argument_parser

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            known, _ = get_argument_parser().parse_known_args(sys.argv[1:])
    except SystemExit:  # another program runs Snakemake, with its own arguments
        return {}
    return vars(known)
