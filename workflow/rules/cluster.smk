# What a cluster has to know of the jobs (profiles/slurm); a run on one machine does not ask.

# Only with --sdm conda apptainer: envs/sharc.yaml is then made and used inside this image.
container: "docker://condaforge/miniforge3:25.3.1-0"


# On the machine that Snakemake runs on: what may download, and what takes seconds. By the names that they have
# in a workflow that uses them as a module, which the directive does not know.
LOCAL = ["all", "recall", "data", "finished", "measured", "card"]
LOCAL += ["runs", "tables", "figures", "report", "provenance", "recall_tables"]
LOCAL += ["recall_figures", "recall_provenance"]
workflow.localrules(*map(workflow.modifier.modify_rulename, LOCAL))


# A grid that may use a GPU asks for one where a backbone runs (`device`) or cells are trained (`cells.device`).
GPUS = 0 if grid.device == "cpu" else 1
CELL_GPUS = 0 if grid.cells.device == "cpu" else 1

# The jobs of this machine share its GPU: one at a time, unless --resources gpu=... says otherwise.
if not SUBMITS and "gpu" not in workflow.global_resources and resolve_device("auto").type == "cuda":
    workflow.register_resource("gpu", 1)


def growing(amount, times=lambda wildcards: 1):
    """A resource of which each attempt gets as much again: a job killed for want of it succeeds later."""
    return lambda wildcards, attempt: amount * times(wildcards) * attempt


onstart:
    if workflow.non_local_exec:  # compute nodes need no internet connection
        try:
            fetch_weights(grid, progress=lambda line: print(line, file=sys.stderr))
        except UserError as error:
            raise WorkflowError(f"error: {error}") from None
