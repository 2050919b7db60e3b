"""Real runs on streams of other shapes: a grid through Snakemake, and one run of a domain stream."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from snake import copy_project, sharc_core, snakemake

pytestmark = pytest.mark.pipeline
GLYPHS = {"source": "glyphs", "classes": 4, "train_per_class": 10, "test_per_class": 5, "size": 16}
BACKBONE = {
    "arch": "resnet_small",
    "weights": "pretrain",
    "image_size": 16,
    "pretrain": {"dataset": {**GLYPHS, "first_class": 1000, "digits": False}, "epochs": 1},
}
PARTS = [GLYPHS, {**GLYPHS, "seed": 1, "size": 20, "name": "other"}]
GRID = {
    "datasets": {
        "s_digits": {"source": "digits", "tasks": [4, 2, 2, 2]},
        "s_singles": {**GLYPHS, "tasks": [1, 3], "class_order_seed": "per_run"},
        "s_mix": {"source": "sequence", "parts": PARTS, "order": "blurry", "blurry": 0.2},
    },
    "backbone": BACKBONE,
    "methods": ["joint", "er", "ncm"],
    "buffers": [20],
    "scenarios": ["class_il"],
    "seeds": [0, 1],
    "cells": {"per_job": 8},
}


def test_streams_of_other_shapes_run_to_the_report(tmp_path):
    copy_project(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GRID))
    done = snakemake(tmp_path, "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(tmp_path / "results/runs.csv")
    assert len(runs) == 3 * 4 * 2 and list(runs.columns)[-2:] == ["acc_weighted", "aia_weighted"]
    assert set(runs.dataset[runs.acc_weighted.notna()]) == {"s_digits", "s_singles"}
    replayed = runs[runs.method == "er"]
    assert set(replayed.samples_stored[(replayed.variant == "plain") & (replayed.dataset == "s_digits")]) == {
        20
    }
    documents = {
        path.parent.parent.name: json.loads(path.read_text())
        for path in (tmp_path / "results/matrices").glob("*/*/ncm.json")
    }
    assert documents["s_digits"]["classes_per_task"] == [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9]]
    assert documents["s_mix"]["classes_per_task"] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    one, other = documents["s_singles"]["classes_per_task"]
    assert [len(task) for task in one] == [1, 3] and one != other
    assert (np.array(documents["s_singles"]["matrix"]["task_il"])[:, :, 0] == 100).all()
    table = (tmp_path / "results/tables/class_il.md").read_text()
    assert "s_digits by class" in table and "s_mix by class" not in table
    checked = sharc_core(tmp_path, "verify", "results")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    again = snakemake(tmp_path, "--configfile", "mine.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr
    domains = {"source": "sequence", "parts": PARTS, "labels": "same"}
    values = GRID | {"datasets": {"domains": domains}, "scenarios": "domain_il"}
    (tmp_path / "domains.yaml").write_text(yaml.safe_dump(values))
    run = "run --config domains.yaml --dataset domains --scenario domain_il --seed 0"
    done = sharc_core(tmp_path, *run.split(), "--method", "er", "--variant", "sharc")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "domain_il, seed 0: accuracy in %" in said and "task 2/2: Domain-IL accuracy" in said
