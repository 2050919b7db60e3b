"""Where and how Snakemake runs the workflow: what has to be mended or refused before the first job."""

import shlex
from typing import Any

from sharc_core.common.errors import UserError, shown


class ShellWord(str):
    """A path that is quoted for a shell wherever it is formatted into a text."""

    def __format__(self, specification: str) -> str:
        """The quoted path."""
        return format(shlex.quote(str(self)), specification)


def shell_safe(interpreter: str, submits: bool) -> str:
    """The path of Python's interpreter as Snakemake can take it as `sys.executable`.

    Snakemake formats it into the command of every script without quoting it: a blank in the name of a folder
    would end the command. submits: jobs go to a cluster, whose commands join it as it is: a UserError there.
    """
    if submits and shlex.quote(str(interpreter)) != interpreter:
        raise UserError(
            f"jobs on a cluster cannot be started with {shown(str(interpreter))}, in which a shell reads "
            "more than a name: put the environment elsewhere, for example with make VENV=/scratch/sharc"
        )
    return ShellWord(interpreter)


def check_module(modifier: Any) -> None:
    """Raises UserError for a `module` of another workflow that asks for what the workflow cannot do.

    modifier: workflow.modifier, of the workflow itself or of the module that it is used as.
    """
    while modifier is not None:
        paths = modifier.path_modifier
        if paths.prefix or paths._prefix_replacements:
            raise UserError(
                f"module {modifier.namespace}: prefix and replace_prefix are not supported, as the grid says "
                "where files lie: set data_dir and results_dir in its config"
            )
        modifier = modifier.parent_modifier
