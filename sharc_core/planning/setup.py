"""Make the plan of a call of Snakemake: read the grid file, check its inputs and configure Snakemake."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from sharc_core.common.device import sees_gpu
from sharc_core.common.errors import UserError, shown
from sharc_core.grid.loading import check_text, read_config
from sharc_core.grid.overrides import read_grid
from sharc_core.planning.call import Call
from sharc_core.planning.plan import Plan
from sharc_core.planning.progress import follow
from sharc_core.stages.preflight import check_folder, check_inputs
from sharc_core.studies.registered import trained_cells


def plan_of(workflow: Any, root: str) -> Plan:
    """Return the plan of a call of Snakemake. workflow: its object. root: the folder of the Snakefile.

    The Snakefile's `config` has to become the plan's. A problem with the grid or its inputs ends the process
    with one line. If Snakemake handled the error it would print a traceback.
    """
    try:
        return _plan_of(workflow, root)
    except UserError as error:
        _end(error)


def _plan_of(workflow: Any, root: str) -> Plan:
    check_folder(root)
    check_module(workflow.modifier)
    submits = workflow.nodes is not None  # a cluster's profile sets the number of jobs
    sys.executable = shell_safe(sys.executable, submits)
    values = _grid_file(workflow, root)
    # --config changes the config of the workflow that Snakemake was called with
    is_called = values is workflow.modifier_stack[0].globals["config"]
    grid, values, variables = read_grid(values, workflow.config_settings.config if is_called else {})
    workflow.register_envvars(*variables)  # or paths could differ in jobs on a cluster
    call = Call(workflow)
    is_shared = not submits and not call.is_dry and "gpu" not in workflow.global_resources
    if is_shared and (grid.device == "mps" or sees_gpu()):
        # local jobs take turns, unless --resources gpu=... allows more
        workflow.register_resource("gpu", 1)
    if call.is_main:
        # a dry run shows the plan even if data are missing; a login node need not have the GPU of the jobs
        check_inputs(grid, progress=say, planning=call.is_dry, elsewhere=submits, of_studies=trained_cells)
    plan = Plan(grid, values, call, Path(root))
    if call.is_main and workflow.modifier.is_main_snakefile():
        is_run = call.compares and not call.is_dry
        hidden = [study.name for study in plan.studies]
        plan.progress = follow(workflow, is_run, hidden, plan.print_end if is_run else lambda: None)
    if call.compares:
        for line in plan.comparison.notes():
            say(line)
        call.force(plan.to_force())
    return plan


def _grid_file(workflow: Any, root: str) -> dict[str, Any]:
    """Return Snakemake's config: the keys and values of the grid file, with those of --config."""
    for path in workflow.overwrite_configfiles:
        check_text(path)
    is_main = workflow.modifier.is_main_snakefile()
    # With --configfile, the default's data sets must not be merged into the grid.
    if is_main and not workflow.overwrite_configfiles:
        read_config("config.yaml")  # reports an error in one line; Snakemake reads a --configfile itself
        workflow.configfile("config.yaml")
    elif not is_main and not workflow.modifier.skip_configfile:  # a module without config
        return read_config(f"{root}/config.yaml")
    return workflow.config


def say(line: str) -> None:
    """Print a line to the terminal."""
    print(line, file=sys.stderr)


def _end(error: UserError) -> NoReturn:
    say(f"error: {error}")
    sys.stderr.flush()
    os._exit(1)


class ShellWord(str):
    """A path that is quoted for a shell wherever it is formatted into a text."""

    def __format__(self, specification: str) -> str:
        """Return the quoted path."""
        return format(shlex.quote(str(self)), specification)


def shell_safe(interpreter: str, submits: bool) -> str:
    """Return the path of Python's interpreter in a form that Snakemake can take as `sys.executable`.

    Snakemake formats it into the command of every script without quotes, so a blank in the name of a folder
    would end the command. submits: jobs go to a cluster, whose commands contain the path as it is; a path
    that needs quotes then raises a UserError.
    """
    if submits and shlex.quote(str(interpreter)) != interpreter:
        raise UserError(
            f"jobs on a cluster cannot be started with {shown(str(interpreter))}, which has characters that "
            "are special to a shell: put the environment elsewhere, for example with make VENV=/scratch/sharc"
        )
    return ShellWord(interpreter)


def check_module(modifier: Any) -> None:
    """Raise UserError for a `module` of another workflow with options that this one does not support.

    modifier: workflow.modifier, of the workflow itself or of the module that it is used as.
    """
    while modifier is not None:
        paths = modifier.path_modifier
        if paths.prefix or paths._prefix_replacements:
            raise UserError(
                f"module {modifier.namespace}: prefix and replace_prefix are not supported, because the "
                "grid defines the folders: set data_dir and results_dir in its config"
            )
        modifier = modifier.parent_modifier
