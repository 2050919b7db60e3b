"""The smoke grid with `--profile profiles/slurm` on a real SLURM, with typical faults of clusters.

In one run of the whole grid, the first attempt at features is cancelled and the first attempt at cells
is killed for using too much memory. The results equal those of a local run bit for bit.
"""

import json
import re
import shutil
import signal
import time
from types import SimpleNamespace

import one_node_slurm
import pytest
import yaml
from snake import ROOT, Running, copy_project, ran, smoke_results, snakemake, start_snakemake

from sharc_core.grid.loading import load_config
from sharc_core.studies.registered import job_studies

pytestmark = pytest.mark.pipeline

SMOKE = ("--configfile", "config/smoke.yaml")
# the profile, adapted to a SLURM without accounting and with short waits
CLUSTER = (
    *("--profile", "profiles/slurm", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"),
)
TOO_LITTLE = "cell:mem_mb=80 if attempt == 1 else 2000"
A_GPU_AT_FIRST = "cell:gpu=1 if attempt == 1 else 0"
SECONDS = 1200  # time limit of a run on the cluster


@pytest.fixture(scope="module")
def slurm():
    if why := one_node_slurm.missing():
        pytest.skip(why)
    with one_node_slurm.running() as running:
        yield running
    assert running.processes() == []


def of_rule(slurm, rule: str) -> list[dict[str, str]]:
    """Return the SLURM jobs of a rule or of its groups in the order of submission."""
    jobs = sorted(slurm.jobs().values(), key=lambda job: int(job["JobId"]))
    return [
        job for job in jobs if re.fullmatch(rf"rule_{rule}(_wildcards_.*)?|rule_.*_{rule}", job["Comment"])
    ]


def running_job(slurm, rule: str, process: Running) -> dict[str, str]:
    """Wait until the first job of a rule runs, and return it."""
    while process.poll() is None:
        if (found := of_rule(slurm, rule)) and found[0]["JobState"] == "RUNNING":
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"no job of rule {rule} ran")


def disturbed(process: Running, disturb) -> str:
    """Call `disturb` while Snakemake runs, wait for its end and return its output."""
    try:
        disturb()
        return process.ended(SECONDS).stdout
    except BaseException:
        process.kill()
        print(process.ended().stdout)
        raise


@pytest.fixture(scope="module")
def run(slurm, tmp_path_factory):
    """Run the whole grid on SLURM; return the project, Snakemake's output and SLURM's jobs."""
    folder = tmp_path_factory.mktemp("cluster")
    copy_project(folder)
    changed = ("--group-components", "cells=4", "--set-resources", TOO_LITTLE, A_GPU_AT_FIRST)
    arguments = (*SMOKE, *CLUSTER, *changed)
    # only local jobs are forked: SLURM starts the others
    process = start_snakemake(folder, *arguments, environment=slurm.environment, fork_jobs=True)
    said = disturbed(process, lambda: slurm.cancel(running_job(slurm, "features", process)["JobId"]))
    assert process.returncode == 0, said
    jobs = {rule: of_rule(slurm, rule) for rule in ("pretrain", "features", "cell")}
    return SimpleNamespace(folder=folder, said=said, jobs=jobs, number=len(slurm.jobs()))


def fields(jobs: list[dict[str, str]], *names: str) -> list[tuple[str, ...]]:
    return [tuple(job.get(name, "") for name in names) for job in jobs]


def test_results_are_those_of_a_local_run(run, project):
    ours, locally = smoke_results(run.folder), smoke_results(project)
    assert len([name for name in ours if "/matrices/" in name]) == 4
    assert ours == {name: locally[name] for name in ours}


def test_local_run_after_it_has_nothing_to_do(run):
    assert "Nothing to be done" in snakemake(run.folder, *SMOKE).stdout


@pytest.mark.reliability("cancelled-slurm-job")
def test_a_cancelled_job_runs_again_with_twice_the_memory_and_time(run):
    assert fields(run.jobs["features"], "JobState", "MinMemoryNode", "TimeLimit") == [
        ("CANCELLED", "16000M", "04:00:00"),
        ("COMPLETED", "32000M", "08:00:00"),
    ]


@pytest.mark.reliability("cancelled-slurm-job")
def test_a_job_killed_for_memory_runs_again_with_more(run):
    """Four cells are one job. With a GPU they run one at a time, otherwise two at a time on two cores."""
    names = ("JobState", "MinMemoryNode", "TimeLimit", "NumCPUs", "TresPerJob", "Partition")
    assert fields(run.jobs["cell"], *names) == [
        ("FAILED", "80M", "08:00:00", "1", "gres:gpu:1", "gpu"),
        ("COMPLETED", "4000M", "08:00:00", "2", "", "cpu"),
    ]
    (log,) = (run.folder / "logs/slurm/group_cells_cell").glob("*.log")
    assert "exceeded memory limit" in log.read_text()


def test_backbones_ask_for_a_gpu(run):
    jobs = run.jobs["pretrain"] + run.jobs["features"]
    assert set(fields(jobs, "TresPerJob", "Partition")) == {("gres:gpu:1", "gpu")}


def test_fetching_and_tables_are_no_cluster_jobs(run):
    assert run.number == 5  # pretrain, features twice, cells twice
    log = min((run.folder / ".snakemake/log").glob("*.snakemake.log")).read_text()
    for rule in ("data", "runs", "tables", "figures", "report"):
        assert f"localrule {rule}:" in log and rule in ran(run.said)
    logs = {path.name for path in (run.folder / "results/smoke/logs").rglob("*.log")}
    assert {"report.log", "view0.log", "sgd.log"} <= logs


@pytest.mark.reliability("interrupted-login-node")
def test_the_command_line_overrides_and_an_interrupt_cancels(slurm, run, tmp_path):
    """A CPU grid requests no GPU; partition, memory and time can be given; Ctrl-C cancels all jobs."""
    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    (manifest,) = folder.glob("data/features/*/*/view0/manifest.json")
    arguments = (
        *(str(manifest.relative_to(folder)), "--force", *SMOKE, *CLUSTER, "--config", "device=cpu"),
        *("--default-resources", "slurm_partition=gpu"),
        *("--set-resources", "features:mem_mb=2345", "features:runtime=7"),
    )
    before = set(slurm.jobs())
    logs = set(folder.glob(".snakemake/log/*"))
    process = start_snakemake(folder, *arguments, environment=slurm.environment)

    def interrupt():
        """Interrupt once Snakemake knows the job's number, without which it cannot cancel the job."""
        while process.poll() is None:
            new = set(folder.glob(".snakemake/log/*")) - logs
            if any("submitted with SLURM jobid" in log.read_text() for log in new):
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)

    said = disturbed(process, interrupt)
    (number,) = set(slurm.jobs()) - before
    job = slurm.jobs()[number]
    expected = ("", "gpu", "2345M", "00:07:00")
    assert fields([job], "TresPerJob", "Partition", "MinMemoryNode", "TimeLimit") == [expected], said
    assert process.returncode != 0
    assert job["JobState"] == "CANCELLED"


def test_weights_are_fetched_before_the_first_job(slurm, run):
    """They are fetched on the login node, which has a network. Without one the run fails before any job."""
    values = yaml.safe_load((run.folder / "config/smoke.yaml").read_text())
    values["backbone"] = {"arch": "resnet18", "weights": "imagenet1k_v1", "image_size": 32}
    (run.folder / "config/torchvision.yaml").write_text(yaml.safe_dump(values))
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    environment = {**slurm.environment, **nowhere, "TORCH_HOME": str(run.folder / "torch")}
    before = set(slurm.jobs())
    arguments = ("--configfile", "config/torchvision.yaml", *CLUSTER)
    done = snakemake(run.folder, *arguments, environment=environment)
    assert done.returncode == 1
    assert "error: cannot get torchvision weights ResNet18_Weights.IMAGENET1K_V1" in done.stdout
    assert "Traceback" not in done.stdout and ran(done.stdout) == []
    assert set(slurm.jobs()) == before


def test_gpu_cells_share_a_job_that_requests_one_gpu(slurm, run):
    """`auto` finds no GPU, because SLURM's is only a count, so the numbers equal those of the CPU."""
    values = yaml.safe_load((run.folder / "config/smoke.yaml").read_text())
    values |= {"cells": {"device": "auto", "per_job": 3}, "results_dir": "results/batched"}
    (run.folder / "config/batched.yaml").write_text(yaml.safe_dump(values))
    arguments = ("--configfile", "config/batched.yaml", *CLUSTER)
    alone = [path.relative_to(run.folder) for path in run.folder.glob("results/smoke/matrices/*/*/er-*.json")]
    together = [str(path).replace("results/smoke/", "results/batched/") for path in alone]
    assert len(alone) == 3
    done = snakemake(run.folder, *together, *arguments, environment=slurm.environment)
    assert done.returncode == 0, done.stdout
    assert fields(of_rule(slurm, "cells"), "JobState", "TresPerJob", "Partition", "TimeLimit") == [
        ("COMPLETED", "gres:gpu:1", "gpu", "06:00:00")
    ]
    for paths in zip(alone, together, strict=True):
        one, other = (json.loads((run.folder / path).read_text()) for path in paths)
        for part in ("matrix", "untrained", "seeds"):
            assert one[part] == other[part]


@pytest.mark.reliability("no-gpu")
def test_a_login_node_needs_no_gpu(tmp_path):
    """With `device: cuda` only the jobs need a GPU. The dry run needs no SLURM."""
    copy_project(tmp_path)
    done = snakemake(tmp_path, *SMOKE, "--profile", "profiles/slurm", "--dry-run", "--config", "device=cuda")
    assert done.returncode == 0, done.stdout
    resources = re.findall(r"^ *rule (\w+):.*?^ *resources: (.*?)$", done.stdout, re.M | re.S)
    assert len([rule for rule, _ in resources if rule == "cell"]) == 4
    assert {rule for rule, line in resources if "gpu=1" in line} == {"pretrain", "features"}


def test_documented_cluster_resources_match_the_rules():
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    rules = dict(re.findall(r"^rule (\w+):\n((?:(?:    .*)?\n)*)", text, re.M))
    names = {name for name, body in rules.items() if re.search("^    localrule: True", body, re.M)}
    assert set(rules) - names == {"pretrain", "features", "cell", "cells", "study_job"}
    assert {"data", "runs", "tables", "figures", "report", "provenance"} < names
    rows = [line for line in (ROOT / "docs/cluster.md").read_text().splitlines() if line.startswith("| `")]
    needs = {}
    for name in set(rules) - names - {"study_job"}:
        needs[name] = [
            int(re.search(rf"{key}=growing\((\d+)[,)]", rules[name])[1]) for key in ("mem_mb", "runtime")
        ]
    grid = load_config(ROOT / "config/recall.yaml")
    needs["study_job"] = max(
        [job.mem_mb, job.minutes] for study in job_studies(grid) for job in study.jobs(grid)
    )
    for study in job_studies(grid):
        for stage in study.stages(grid):
            name = f"{study.name}_{stage.name}"
            names |= {f"<study>_{stage.name}", "<study>_provenance"} if stage.mem_mb is None else set()
            needs |= {name: [stage.mem_mb, stage.minutes]} if stage.mem_mb is not None else {}
    assert "recall_pictures" in needs and "<study>_tables" in names
    for name, (memory, minutes) in needs.items():
        (row,) = (row for row in rows if f"`{name}`" in row.split("|")[1])
        assert f"{memory // 1000} GB, {minutes // 60} h" in row, row
    for name in names:
        assert any(f"`{name}`" in row.split("|")[1] and "login node" in row for row in rows), name
