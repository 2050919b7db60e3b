# What several rules need, and what happens at the start and the end of a run.
import re

from snakemake.exceptions import WorkflowError

from sharc_core.common.errors import UserError
from sharc_core.planning.setup import say

LOGS = PLAN.path("logs")
# A grid that may use a GPU asks for one where a backbone runs (`device`) and where cells are trained (`cells.device`).
GPUS = 0 if PLAN.grid.device == "cpu" else 1
CELL_GPUS = 0 if PLAN.grid.cells.device == "cpu" else 1


def growing(amount, times=lambda wildcards: 1):
    """A resource that grows with each attempt, so that a job that was killed for lack of it succeeds later."""
    return lambda wildcards, attempt: amount * times(wildcards) * attempt


def one_of(names):
    """A wildcard's constraint. With no names it matches nothing: the rule then offers to make nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def read_by(rule, paths):
    """Inputs of a rule. Where its files are right, the inputs' times do not count."""
    return ancient(paths) if PLAN.is_current(rule) else paths


onstart:
    if workflow.non_local_exec:  # compute nodes need no internet connection
        from sharc_core.stages.build import fetch_weights

        try:
            fetch_weights(PLAN.grid, progress=say)
        except UserError as error:
            raise WorkflowError(f"error: {error}") from None


onsuccess:
    PLAN.print_end()


onerror:
    PLAN.print_end(has_failed=True)
