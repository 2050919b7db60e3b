"""A grid with a frozen and a drifting backbone in a real `snakemake`: features, cells, tables, report."""

import shutil

import pytest
import yaml
from snake import ran, sharc_core, snakemake

pytestmark = pytest.mark.pipeline
CONFIG = ("--configfile", "config/batch_norm_small.yaml")


@pytest.fixture(scope="module")
def copy(project, tmp_path_factory):
    """A copy of the finished smoke project, whose data and pre-trained weights are reused."""
    folder = tmp_path_factory.mktemp("batch_norm") / "copy"
    shutil.copytree(project, folder)
    return folder


def write(project, **changes) -> None:
    """Write a grid of digits with both batch norms and one batch per method and backbone."""
    values = yaml.safe_load((project / "config/smoke.yaml").read_text())
    values["datasets"] = {"s_digits": values["datasets"]["s_digits"]}
    values["backbone"]["batch_norm"] = ["frozen", "drifting"]
    values |= {"methods": ["joint", "er"], "buffers": values["buffers"][:1], "seeds": [0], "studies": {}}
    values |= {"results_dir": "results/batch_norm", "cells": {"per_job": 8}} | changes
    (project / CONFIG[1]).write_text(yaml.safe_dump(values))


def planned(project) -> dict[str, int]:
    """Return how many jobs of each rule a dry run would start."""
    said = snakemake(project, "--dry-run", *CONFIG).stdout
    rows = [line.split() for line in said.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def test_both_batch_norms_in_one_grid(copy):
    """Parts are extracted once, the record has everything, and existing files are reused."""
    write(copy)
    done = snakemake(copy, *CONFIG)
    assert done.returncode == 0, done.stdout
    assert "features" in ran(done.stdout) and "pretrain" not in ran(done.stdout), (
        "the smoke grid's weights are those of both backbones"
    )
    (parts,) = (copy / "data/features").glob("*/*-drifting-*")
    assert sorted(path.name.split("-last")[0] for path in parts.iterdir()) == [
        "joint-seed0-view0-batch10-passes1",
        "start",
        "tests-seed0-view0-batch10-passes2",
        "train-seed0-view0-batch10",
    ]
    text = (copy / "results/batch_norm/tables/batch_norm.md").read_text()
    assert "ACC drifting" in text and "ER+" in text
    page = (copy / "results/batch_norm/report.html").read_text()
    assert "first_task_class_il" in page or "accuracy on the first task" in page.lower()
    checked = sharc_core(copy, "verify", "results/batch_norm", "--data")
    assert checked.returncode == 0 and "fine" in checked.stdout, checked.stdout
    assert "features" not in planned(copy) and "cells" not in planned(copy)
    write(copy, methods=["joint", "er", "agem"])
    plan = planned(copy)
    assert "features" not in plan, "A-GEM makes as many passes as ER"
    assert plan["cells"] == 2, "of the new method alone, one job for each batch norm"
