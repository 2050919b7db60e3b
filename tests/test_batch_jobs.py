"""Batches of cells in a real `snakemake`: equal documents, reruns, a killed batch, a missing GPU."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from snake import jobs_of, snakemake, start_snakemake, wait_for

pytestmark = pytest.mark.pipeline
FOLDER = "matrices/s_digits/resnet_small-pretrain"


def write(project: Path, **changes) -> tuple[str, ...]:
    """Write the smoke grid with batches and changed keys; return the arguments that select it."""
    values = yaml.safe_load((project / "config/smoke.yaml").read_text())
    values |= {"results_dir": "results/batched", "cells": {"per_job": 3}} | changes
    (project / "config/batched.yaml").write_text(yaml.safe_dump(values))
    return "--configfile", "config/batched.yaml"


def documents(project: Path, results: str) -> dict[str, dict]:
    paths = project.glob(f"results/{results}/{FOLDER}/*.json")
    found = {path.name: json.loads(path.read_text()) for path in paths}
    for document in found.values():
        del document["costs"]["train_seconds"]
    return found


def planned(project: Path, *arguments: str) -> set[str]:
    """Return the batches and the cells that a dry run would make."""
    dry = snakemake(project, *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stdout
    lines = [line.split("output: ")[1] for line in dry.stdout.splitlines() if "output: " in line]
    return {Path(name).stem for line in lines for name in line.split(", ") if f"/{FOLDER}/" in name}


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def copy(project, tmp_path_factory):
    """A copy of the finished project that tests may change."""
    folder = tmp_path_factory.mktemp("batches") / "copy"
    shutil.copytree(project, folder)
    return folder


@pytest.mark.reliability("killed-batch")
def test_a_killed_batch_goes_on_and_gives_the_same_bits(copy):
    """Finished cells are not trained again, and all documents equal those of one job per cell."""
    arguments = write(copy)
    kept = copy / f"results/batched/{FOLDER}/.finished"
    process = start_snakemake(copy, "results/batched/runs.csv", *arguments)
    wait_for(lambda: list(kept.glob("er-*.document")), "a finished cell")
    for job in jobs_of(process, "cells.py"):
        job.send_signal(signal.SIGKILL)
    said = process.ended().stdout
    assert process.returncode == 1 and "/logs/cells/s_digits/resnet_small-pretrain/er-1.log" in said
    finished = {path.stem for path in kept.glob("er-*.document")}
    assert 0 < len(finished) < 3, "it was killed too late"
    assert not list(kept.parent.glob("er-*.json"))
    done = snakemake(copy, "results/batched/runs.csv", *arguments)
    assert done.returncode == 0, done.stdout
    log = (copy / "results/batched/logs/cells/s_digits/resnet_small-pretrain/er-1.log").read_text()
    for cell in finished:
        assert f"{cell}: finished by an earlier run of this job" in log
    assert log.count("task 5/5") == 3 - len(finished)
    alone = documents(copy, "smoke")
    assert len(alone) == 4 and documents(copy, "batched") == alone
    assert not list(kept.glob("*")), "all were put in their places"


def test_changed_per_job_retrains_no_cell(copy):
    """Use the same results folder with other values of `per_job`, without Snakemake's metadata."""
    shutil.rmtree(copy / ".snakemake")
    for cells in ({}, {"per_job": 2}, {"per_job": 100}):
        assert planned(copy, *write(copy, results_dir="results/smoke", cells=cells)) == set()
    more = planned(copy, *write(copy, results_dir="results/smoke", buffers=[20, 25]))
    assert len(more) == 4 and all("m25" in name for name in more - {"er-2"}), more


def test_forced_and_missing_cells_of_a_batch_are_retrained(copy):
    """One document is missing and one is forced; the third is not touched."""
    arguments = write(copy, results_dir="results/smoke")
    missing, asked, left = sorted(copy.glob(f"results/smoke/{FOLDER}/er-*.json"))
    before = documents(copy, "smoke")
    missing.unlink()
    age = left.stat().st_mtime_ns, asked.stat().st_mtime_ns
    targets = [str(path.relative_to(copy)) for path in (missing, asked)]
    done = snakemake(copy, *targets, *arguments, "--forcerun", targets[1])
    assert done.returncode == 0, done.stdout
    assert documents(copy, "smoke") == before
    assert left.stat().st_mtime_ns == age[0] and asked.stat().st_mtime_ns > age[1]
    log = (copy / "results/smoke/logs/cells/s_digits/resnet_small-pretrain/er-1.log").read_text()
    assert log.count("task 5/5") == 2


def test_runtime_of_a_batch_grows_with_its_cells_up_to_eight(copy):
    """Each cell requests two hours, up to the time of eight cells."""
    many = {"buffers": [20, 25, 30, 35, 40], "cells": {"per_job": 100}}
    arguments = write(copy, results_dir="results/many", **many)
    dry = snakemake(copy, *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stdout
    jobs = re.findall(r"^rule cells:.*?^    resources: .*?runtime=(\d+)", dry.stdout, re.M | re.S)
    assert sorted(map(int, jobs)) == [120, 960]


@pytest.mark.reliability("shared-setting", "per-job")
def test_changed_setting_or_device_retrains_only_affected_cells(copy):
    """A method's setting reruns its cells, a new method reruns no others, another device reruns all."""
    er = {"er-1", *(path.stem for path in copy.glob(f"results/smoke/{FOLDER}/er-*.json"))}
    assert planned(copy, *write(copy)) == set()
    assert planned(copy, *write(copy, method_settings={"er": {"replay": "whole"}})) == er
    gem = {name.replace("er-", "gem-") for name in er}
    assert planned(copy, *write(copy, methods=["sgd", "er", "gem"])) == gem
    assert planned(copy, *write(copy)) == set()
    assert planned(copy, *write(copy, cells={"per_job": 3, "device": "auto"})) == {"sgd-1", "sgd", *er}


@pytest.mark.reliability("no-gpu")
def test_missing_gpu_is_an_error_in_a_run_and_a_warning_in_a_dry_run(copy):
    """A local run fails before any job; with jobs on other machines, the job itself fails."""
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    on_gpu = {"device": "cuda", "cells": {"device": "cuda"}, "results_dir": "results/gpu"}
    arguments = write(copy, **on_gpu)
    line = "config: device: cuda was asked for, but torch sees no usable GPU"
    here = snakemake(copy, *arguments, environment=no_gpu)
    assert here.returncode == 1
    assert errors(here.stdout)[0].startswith(f"error: {line}")
    assert "Building DAG" not in here.stdout
    plan = snakemake(copy, *arguments, "--dry-run", environment=no_gpu)
    assert plan.returncode == 0 and f"warning: {line}" in plan.stdout
    assert "warning: config: cells.device: cuda" in plan.stdout and "gpu=1" in plan.stdout
    there = snakemake(copy, *arguments, "--jobs", "1", environment=no_gpu)  # as with a cluster's executor
    assert there.returncode == 1 and "Building DAG" in there.stdout
    said = errors(there.stdout)
    assert said and all("cuda was asked for" in one and "(log: results/gpu/logs/" in one for one in said)
