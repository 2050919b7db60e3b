# From raw images to tables:
#
#   data -> backbone -> features -> cells (all seeds at once) -> runs.csv -> tables, figures, report
#
# Data, weights and features are shared between grids (data_dir); everything below results_dir is this grid's.
# PLAN (sharc_core/planning/plan.py) compares the grid file with what is on disk and decides which jobs run.
# --configfile names another grid file than config.yaml.
import os
import sys

from snakemake.utils import min_version

min_version("9.20")

# not workflow.basedir: another workflow may use this one as a module
HERE = workflow.current_basedir.get_path_or_uri(secret_free=True)
if not os.path.isdir(HERE):
    print(f"error: {HERE} is no folder of this machine: clone SHARC-Bench and name its Snakefile", file=sys.stderr)
    os._exit(1)
sys.path.insert(0, HERE)

from sharc_core.planning.setup import plan_of

PLAN = plan_of(workflow, HERE)
config = PLAN.config


rule all:
    default_target: workflow.modifier.is_main_snakefile()  # a workflow that uses this one has its own first rule
    input:
        PLAN.targets,


# `all`, and the studies of the grid file that `all` leaves out because they take long.
rule studies:
    input:
        PLAN.study_targets,


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/studies.smk"
if PLAN.batches:

    include: "workflow/rules/batches.smk"
