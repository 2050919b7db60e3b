"""config/paper.yaml: a dry run without data, and a run on synthetic archives."""

import json

import pandas as pd
import pytest
import torch
import yaml
from archive_factory import write_mirror
from safetensors.torch import save_file
from snake import ROOT, copy_project, own_lines, snakemake
from torchvision.models import resnet18

from sharc_core.grid.loading import load_config, sub_grid_of
from sharc_core.grid.protocol import RULES
from sharc_core.grid.unroll import cells, memberships
from sharc_core.methods import METHODS
from sharc_core.results.published import load_published

PAPER = ROOT / "config/paper.yaml"


def test_every_published_number_has_a_run():
    """The run has the names that the published table uses."""
    grid = load_config(PAPER)
    runs = set()
    for cell, members in memberships(grid):
        for scenario, names in members.items():
            if "main" in names:
                runs.add((scenario, cell.dataset, cell.buffer, cell.method, cell.variant))
    published = load_published(ROOT / "workflow/paper/paper_results.csv")
    buffers = [None if pd.isna(buffer) else int(buffer) for buffer in published["buffer"]]
    axes = (published[name] for name in ("scenario", "dataset", "method", "variant"))
    expected = {(s, d, b, m, v) for (s, d, m, v), b in zip(zip(*axes, strict=True), buffers, strict=True)}
    assert runs == expected and len(runs) == 156
    assert grid.seeds == [0, 1, 2, 3, 4]
    assert {name: block.tasks for name, block in grid.datasets.items()} == {
        "s_cifar10": 5,
        "s_cifar100": 20,
        "s_miniimagenet": 20,
    }
    (backbone,) = grid.backbones
    assert (backbone.arch, backbone.weights, backbone.image_size) == ("resnet18", "imagenet1k_v1", 224)


def test_grid_has_the_figures_of_the_paper():
    grid = load_config(PAPER)
    figures = {name: (grid.studies[name].figure, sub_grid_of(grid, name)) for name in grid.studies}
    assert figures["curves"][0] == "learning_curves" and figures["curves"][1].buffers == [200]
    for name, method, scenario in (("gem_memories", "gem", "class_il"), ("er_memories", "er", "task_il")):
        figure, part = figures[name]
        assert (figure, part.scenarios) == ("associative_memory", [scenario])
        assert [m for m in part.methods if METHODS.get(m).uses_memory] == [method]
        assert {"none", "bayespcn", "modern_hopfield"} <= set(part.sharc.associative_memory)
    figure, part = figures["theta"]
    assert figure == "theta" and part.scenarios == ["task_il", "class_il"]
    figure, protocols = figures["protocols"]
    others = ("logits_at", "evaluated", "batch_norm")  # DER++'s, CLS-ER's, config/published_code.yaml's
    rules = {f"paper+{rule}" for rule in RULES if rule not in others}
    assert figure == "protocol" and set(protocols.protocol) == {"paper", "code", "mammoth", *rules}
    assert set(protocols.methods) == {"er", "gem"}
    assert protocols.sharc.theta == {s: [0.4, 0.8] for s in protocols.scenarios}
    assert part.sharc.theta == {s: [t / 10 for t in range(1, 10)] for s in part.scenarios}


def test_fidelity_grid_has_every_rule():
    """config/fidelity.yaml has every rule of ER and GEM, both memories, thetas and scenarios."""
    grid = load_config(ROOT / "config/fidelity.yaml")
    rules = {f"paper+{rule}" for rule in RULES if rule not in ("logits_at", "evaluated", "batch_norm")}
    parts = {name: sub_grid_of(grid, name) for name in grid.studies}
    drifting = {"paper+batch_norm", "code+batch_norm"}
    expected = {"paper", "code", "mammoth", *rules, *drifting} - {"paper+forget"}
    assert set(parts["rules"].protocol) == expected
    assert set(parts["rules_bayespcn"].protocol) == {"paper", "code", "mammoth", *rules}
    assert "paper+forget" in parts["rules_recall"].protocol
    for part in (grid, *parts.values()):
        assert part.methods == ["er", "gem"] and part.scenarios == ["task_il", "class_il"]
    assert grid.sharc.theta == parts["rules"].sharc.theta == {s: [0.4, 0.8] for s in grid.scenarios}


def test_published_code_grid_differs_only_in_the_rules_and_inputs_of_the_code():
    paper, code = load_config(PAPER), load_config(ROOT / "config/published_code.yaml")
    for key in ("datasets", "methods", "variants", "buffers", "scenarios", "seeds", "training", "head"):
        assert getattr(code, key) == getattr(paper, key), key
    assert code.protocol == ["code"] and code.sharc.theta == paper.sharc.theta
    assert code.sharc.associative_memory == "bayespcn"
    ((own,), (theirs,)) = code.backbones, paper.backbones
    changed = {"batch_norm": "drifting", "views": len(code.seeds), "normalisation": "dataset"}
    assert own == theirs.model_copy(update=changed)
    passes = {cell.method: cell.passes for cell in cells(code)}
    expected = dict.fromkeys(code.methods, 2) | {"sgd": 1, "joint": 1, "derpp": 3}
    assert passes == expected


@pytest.mark.pipeline
def test_a_dry_run_lists_the_whole_grid_without_data_and_a_run_says_what_is_missing(tmp_path):
    folder = tmp_path
    copy_project(folder)
    dry = snakemake(folder, "-n", "--configfile", "config/paper.yaml")
    text = dry.stdout + dry.stderr
    assert dry.returncode == 0, text
    for cell, _ in memberships(load_config(PAPER)):
        assert f"results/paper/matrices/{cell.dataset}/{cell.backbone}/{cell.id}.json" in text
    assert "mini-ImageNet" in text and "has no official download" in text
    assert not (folder / "data").exists() and not (folder / "results").exists()
    run = snakemake(folder, "--configfile", "config/paper.yaml")
    assert run.returncode == 1
    (line,) = own_lines(run)
    assert line.startswith("error: config: datasets.s_miniimagenet: mini-ImageNet")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Run the paper's grid on small archives in the original formats with a random backbone.

    It has all data sets, methods, variants, scenarios, studies and protocols, but fewer buffers, seeds and
    thetas. Cells run in batches, because a job takes seconds to start.
    """
    folder = tmp_path_factory.mktemp("paper")
    copy_project(folder)
    blocks = write_mirror(folder / "mirror")
    values = yaml.safe_load(PAPER.read_text())
    for block in values["datasets"].values():
        block |= blocks[block["source"]]
    torch.manual_seed(0)
    save_file(resnet18().state_dict(), folder / "weights.safetensors")
    values["backbone"] |= {"weights": "weights.safetensors", "image_size": 32}
    values |= {"mirror": "mirror", "seeds": [0, 1], "buffers": [200], "cells": {"per_job": 100}}
    values["studies"]["theta"]["sharc"]["theta"] = [0.1, 0.5, 0.9]
    values["studies"]["protocols"]["sharc"]["theta"] = [0.8]
    # memories that stop learning early use the same code with less work
    values["sharc"]["associative_settings"] |= {
        "bayespcn": {"hidden": 8, "steps": 5},
        "bayespcn_exact": {"hidden": 8, "steps": 5},
        "bayespcn_map": {"kind": "bayespcn", "log_joint": "map", "hidden": 8, "steps": 5},
        "pcn": {"hidden": 8, "rounds": 2, "read_steps": 5},
        "autoencoder": {"hidden": 8, "steps": 5},
    }
    (folder / "config/stand_in.yaml").write_text(yaml.safe_dump(values))
    done = snakemake(folder, "--configfile", "config/stand_in.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.pipeline
def test_the_whole_grid_runs_from_a_mirror(stand_in):
    out, grid = stand_in / "results/paper", load_config(stand_in / "config/stand_in.yaml")
    runs = pd.read_csv(out / "runs.csv")
    expected = memberships(grid)
    assert len(runs) == 2 * sum(len(members) for _, members in expected)
    assert set(runs["dataset"]) == set(grid.datasets) and runs["acc"].between(0, 100).all()
    assert len(list(out.glob("matrices/*/*/*.json"))) == len(expected)
    for scenario in grid.scenarios:
        table = pd.read_csv(out / f"tables/{scenario}.csv")
        assert len(table) == 3 * (2 + 6 * 2) and table["paper_acc_mean"].notna().all()
        assert table["associative_memory"].dropna().eq("modern_hopfield").all()
    assert "arXiv 2310.04334" in (out / "report.html").read_text()


@pytest.mark.pipeline
def test_every_study_has_its_table_and_its_figures_with_words(stand_in):
    out, grid = stand_in / "results/paper", load_config(stand_in / "config/stand_in.yaml")
    assert grid.studies.keys() == load_config(PAPER).studies.keys()
    for name, study in grid.studies.items():
        part = sub_grid_of(grid, name)
        table = pd.read_csv(out / f"tables/study_{name}.csv")
        assert set(table["scenario"]) == set(part.scenarios)
        for scenario in part.scenarios:
            base = out / f"figures/{name}_{scenario}"
            assert base.with_suffix(".svg").stat().st_size > 5000
            assert base.with_suffix(".png").stat().st_size > 5000
            words = json.loads(base.with_suffix(".json").read_text())
            assert words["study"] == name and words["kind"] == study.figure
            assert words["title"].startswith(study.title)
            if study.figure == "associative_memory":
                assert all(memory in words["alt"] for memory in part.sharc.associative_memory)
            if study.figure == "theta":
                assert "theta from 0.1 to 0.9" in words["alt"]
