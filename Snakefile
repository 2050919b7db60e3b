# From raw images to tables:
#
#   data -> backbone -> features -> cells (all seeds at once) -> runs.csv -> tables, figures, report
#
# Data, weights and features are shared between grids (data_dir); everything below results_dir is this
# grid's. What is on disk is the truth, not Snakemake's notes (sharc_core/verification/comparison.py): names of data,
# weights and features carry a hash of what they are made from, a cell's document says its settings, code and
# features, the record says what tables were made from. Rules offer what is missing or not the grid's; the
# rest are files that no rule makes. A seed more trains that seed, a comment in the code nothing.

import os
import re
import sys
from pathlib import Path

# not workflow.basedir: another workflow may use this one as a module
HERE = workflow.current_basedir.get_path_or_uri(secret_free=True)
if not os.path.isdir(HERE):
    print(f"error: {HERE} is no folder of this machine: clone SHARC-Bench and name its Snakefile", file=sys.stderr)
    os._exit(1)
sys.path.insert(0, HERE)

from sharc_core.common.errors import UserError

try:
    from sharc_core.stages.cell_jobs import FINISHED, OUTDATED, batches, kept_document
    from sharc_core.stages.snakemake_call import Call
    from sharc_core.verification.comparison import Comparison, outdated_stages, stage_keys
    from sharc_core.grid.loading import read_config, refuse_code, study_grid
    from sharc_core.common.device import resolve_device
    from sharc_core.common.files import sha256_file
    from sharc_core.stages.preflight import check_folder, check_inputs
    from sharc_core.backbones.names import has_batch_norms
    from sharc_core.grid.overrides import read_grid
    from sharc_core.stages.build import fetch_weights
    from sharc_core.stages.layout import Layout
    from sharc_core.provenance.code_hashes import recall_hash, script_hash, stage_hash
    from sharc_core.verification.record import NAMES, TABLE_CODE, card_copy
    from sharc_core.studies.jobs import recall_jobs, recall_key, recall_path, recall_settings
    from sharc_core.studies.recall_table import is_measured
    from sharc_core.grid.unroll import extracted_views, memberships
    from sharc_core.stages.snakemake_setup import check_module, shell_safe

    SUBMITS = workflow.nodes is not None  # a cluster's profile says how many jobs at once
    check_folder(HERE)
    check_module(workflow.modifier)
    sys.executable = shell_safe(sys.executable, SUBMITS)
    is_main = workflow.modifier.is_main_snakefile()
    for path in workflow.overwrite_configfiles:
        refuse_code(path)
    # A grid file stands for itself: with --configfile, the default's data sets must not leak in.
    if is_main and not workflow.overwrite_configfiles:
        read_config("config.yaml")  # what is wrong with it in one line; Snakemake reads a --configfile itself

        configfile: "config.yaml"

    elif not workflow.modifier.skip_configfile and not is_main:  # a module without config
        config = read_config(f"{HERE}/config.yaml")

    # --config is about the config of the workflow that Snakemake was called with
    is_called = config is workflow.modifier_stack[0].globals["config"]
    grid, config, variables = read_grid(config, workflow.config_settings.config if is_called else {})
    workflow.register_envvars(*variables)  # or paths of jobs on a cluster could be others
    call = Call(workflow)
    if call.is_main:
        # a dry run shows the plan even where the data are yet to come; the login node need not have the jobs' GPU
        check_inputs(
            grid,
            progress=lambda line: print(line, file=sys.stderr),
            planning=call.is_dry,
            elsewhere=SUBMITS,
        )
    layout = Layout(grid)
    MEMBERSHIPS = [(str(layout.cell(cell)), cell, members) for cell, members in memberships(grid)]
    CELLS = {path: cell for path, cell, _ in MEMBERSHIPS}
    BATCHES = batches(CELLS.values(), grid.cells.batch) if grid.cells.batch > 1 else {}
    MEMBERS = {path: members for path, _, members in MEMBERSHIPS}
    STUDIES = {name: study_grid(grid, name) for name in grid.studies}
    RECALL = {str(recall_path(grid, job)): job for job in recall_jobs(grid)}
    found = Comparison(layout, CELLS)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    os._exit(1)  # Snakemake would bury the line under its own traceback


def script_of(name):
    # Snakemake itself goes by a script's time: after a checkout, or where a clock is behind, all would run again
    return script_hash(Path(HERE) / "workflow/scripts" / name)


def result(path):
    # spelled as Snakemake and CELLS spell it, whether results_dir is out, ./out, out/ or .
    return str(layout.results / path)


# relative, as all paths of inputs, so that a project that was moved or copied re-runs nothing
PUBLISHED = os.path.relpath(f"{HERE}/workflow/paper/paper_results.csv")
LOGS = result("logs")


TABLES = expand(result("tables/{scenario}.{kind}"), scenario=grid.scenarios, kind=["md", "csv", "tex"])
TABLES += expand(result("tables/{scenario}_pairs.csv"), scenario=grid.scenarios)
TABLES += expand(result("tables/study_{study}.csv"), study=STUDIES)
TABLES += [result("tables/scorecard.md"), result("tables/scorecard.csv")]
if has_batch_norms(cell.backbone for cell in CELLS.values()):
    TABLES += [result("tables/batch_norm.md"), result("tables/batch_norm.csv")]
DRAWN = expand("{figure}_{scenario}", figure=["learning_curves", "bytes"], scenario=grid.scenarios)
for study, part in STUDIES.items():
    if grid.studies[study].figure is not None:
        DRAWN += expand("{figure}_{scenario}", figure=study, scenario=part.scenarios)
# of all runs, whichever study asked for them: the protocol of a study may have the batch norm drift
for scenario in sorted({name for members in MEMBERS.values() for name in members}):
    if has_batch_norms(CELLS[path].backbone for path, members in MEMBERS.items() if scenario in members):
        DRAWN.append(f"first_task_{scenario}")
# the .json says in words what the figure shows
FIGURES = expand(result("figures/{figure}.{kind}"), figure=DRAWN, kind=["svg", "png", "json"])
RECALL_TABLES = expand(result("tables/recall.{kind}"), kind=["csv", "md", "tex"])
RECALL_FIGURES = expand(
    result("figures/recall_{sweep}.{kind}"),
    sweep=["masked", "noise", "patterns", "tasks"],
    kind=["svg", "png"],
)
RECALL_PICTURES = expand(result("figures/recall_pictures.{kind}"), kind=["svg", "png"])
# copies of what data_dir has, so that results stay whole without it; their names carry a hash
CARDS = {str(copy): layout.card(name) for name in layout.backbones if (copy := card_copy(layout, name))}


rule all:
    default_target: is_main  # of another workflow that uses this one, its own first rule
    input:
        list(CELLS),
        result("runs.csv"),
        TABLES,
        FIGURES,
        result("report.html"),
        result(NAMES["grid"]),


# A study is a target of its own: snakemake --cores all recall --configfile config/recall.yaml
rule recall:
    input:
        list(RECALL),
        RECALL_TABLES,
        RECALL_FIGURES,
        RECALL_PICTURES,
        result(NAMES["recall"]),


include: "workflow/rules/compare.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/results.smk"
include: "workflow/rules/studies.smk"
if BATCHES:

    include: "workflow/rules/batches.smk"
