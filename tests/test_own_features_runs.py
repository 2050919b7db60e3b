"""Grids on own features: the same bits as the features that they were exported from, and a real run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from small_grid import small_grid
from snake import copy_project, sharc_core, snakemake

from sharc_core.__main__ import main
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.stages.build import ensure_features
from sharc_core.stages.export import export_features
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import check_inputs
from sharc_core.studies.recall import recall_jobs
from sharc_core.studies.recall.settings import RecallSettings

ROOT = Path(__file__).parents[1]
ON_DISK = ("train_maps", "train_pooled", "train_labels", "test_maps", "test_pooled", "test_labels")
AXES = {"methods": ["er", "derpp", "sgd"], "buffers": [8], "seeds": [0, 1], "sharc": {"theta": 0.5}}
AXES |= {"budget": [{"unit": "floats"}, {"unit": "bytes"}]}
MINE = {"source": "features", "path": "mine.npz", "tasks": 2}


@pytest.fixture
def folder(small_features, tmp_path):
    """The small grid's data and features, copied."""
    shutil.copytree(small_features, tmp_path / "small")
    return tmp_path / "small"


def vectors(path, classes: int = 4, width: int = 6):
    """Write a small .npz file of separable vectors, and return its path."""
    draw, labels = np.random.default_rng(1), np.repeat(np.arange(classes), 12)
    features = draw.normal(size=(len(labels), width)) + 3 * np.eye(classes, width)[labels]
    order = draw.permutation(len(labels))
    features, labels = features[order].astype("float32"), labels[order]
    np.savez(
        path, train_features=features[8:], train_labels=labels[8:], test_features=features, test_labels=labels
    )
    return path


def grid_of(folder, **changes):
    """A grid on own features without a backbone."""
    values = {
        "datasets": {"mine": MINE | {"path": str(folder / "mine.npz")}},
        "methods": ["er"],
        "buffers": [8],
    }
    values |= {"data_dir": str(folder / "data"), "results_dir": str(folder / "results")}
    return load_grid(values | changes)


def numbers(document: dict) -> dict:
    """Everything in a document that does not depend on where the features come from or how long it took."""
    costs = {key: value for key, value in document["costs"].items() if key != "train_seconds"}
    return {"matrix": document["matrix"], "untrained": document["untrained"], "costs": costs}


@pytest.mark.parametrize("name", ["mine.npz", "mine.safetensors", "mine"])
def test_exported_features_read_back_give_the_same_bits(folder, name):
    images = small_grid(folder)
    exported = export_features(images, "s_glyphs", folder / name)
    values = images.model_dump() | AXES
    own = values | {"datasets": {"s_glyphs": MINE | {"path": str(folder / name)}}, "backbone": None}
    ours, theirs = load_grid(own), load_grid(values)
    features = ensure_features(ours, "s_glyphs")
    assert features.classes == exported.classes
    assert all(torch.equal(getattr(features, array), getattr(exported, array)) for array in ON_DISK)
    pairs = list(zip(cells(ours), cells(theirs), strict=True))
    assert {(cell.variant, cell.budget_unit) for cell, _ in pairs} == {
        ("plain", None), ("plain", "floats"), ("plain", "bytes"), ("sharc", "floats"), ("sharc", "bytes")
    }  # fmt: skip
    for cell, other in pairs if name == "mine.npz" else pairs[:2]:
        assert cell.id == other.id and (cell.backbone, other.backbone) == ("own_features", "small")
        assert numbers(run_cell(features, cell)) == numbers(run_cell(exported, other))


def test_pooled_vectors_are_maps_of_one_pixel(folder):
    exported = export_features(small_grid(folder), "s_glyphs", folder / "mine.npz", pooled=True)
    features = ensure_features(grid_of(folder), "mine")
    assert features.train_maps.shape == (*exported.train_pooled.shape, 1, 1)
    assert torch.equal(features.train_pooled, exported.train_pooled.half().float())
    assert torch.equal(features.train_labels, exported.train_labels)


@pytest.mark.reliability("bad-export")
def test_the_command_exports(folder, capsys, monkeypatch):
    grid = small_grid(folder)
    values = {key: value for key, value in grid.model_dump(mode="json").items() if key != "recall"}
    (folder / "grid.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(folder)
    command = ["features", "export", "--config", "grid.yaml", "--dataset", "s_glyphs", "--pooled"]
    assert main([*command, "--out", "vectors"]) == 0
    shown = capsys.readouterr().out
    assert shown == "vectors: 32 train and 16 test samples, each 128\n", shown
    assert np.load("vectors/train_features.npy").shape == (32, 128)
    for extra, message in (
        (["--out", "vectors"], "vectors exists: remove it or choose another name"),
        (["--out", "x.h5"], "x.h5: features are written as .npz, as .safetensors or, without an ending"),
        (["--out", "x", "--backbone", "smal"], "unknown backbone 'smal' (did you mean 'small'?)"),
    ):
        assert main([*command, *extra]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.reliability("bad-export")
def test_features_that_differ_between_seeds_are_not_exported(tmp_path):
    def refused(message: str, **backbone) -> None:
        with pytest.raises(UserError, match=message):
            export_features(small_grid(tmp_path, **backbone), "s_glyphs", tmp_path / "mine.npz")

    refused("depend on the seed: export a backbone with batch_norm frozen or adapted", batch_norm="drifting")
    refused("has 2 augmented views of each training image: export a backbone with views 1", views=2)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    """The page's code with a small network and ten images in place of what it downloads."""

    class Images(torch.utils.data.Dataset):
        classes, targets = list("abcde"), list(range(5)) * 2

        def __init__(self, root, train, download, transform):
            self.transform = transform

        def __len__(self):
            return 10

        def __getitem__(self, index):
            return self.transform(Image.new("RGB", (32, 32), (20 * index, 0, 0))), self.targets[index]

    network = torch.nn.Sequential(torch.nn.AvgPool2d(56), torch.nn.Flatten())
    monkeypatch.setattr("torch.hub.load", lambda *names: network)
    monkeypatch.setattr("torchvision.datasets.CIFAR100", Images)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/own_features.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    (grid,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    values = yaml.safe_load(grid)
    values["datasets"]["cifar100_dinov2"]["tasks"] = 1
    check_inputs(load_grid(values))
    features = ensure_features(load_grid(values), "cifar100_dinov2")
    assert features.classes == Images.classes and features.train_maps.shape == (10, 48, 1, 1)


# --- grids ---------------------------------------------------------------------------------------------


def mixed(folder, **changes):
    """A grid with own features and, on two backbones, images."""
    values = small_grid(folder).model_dump()
    vectors(folder / "mine.npz")
    other = values["backbone"] | {"name": "other"}
    values["datasets"] |= {"mine": MINE | {"path": str(folder / "mine.npz")}}
    return load_grid(values | {"backbone": [values["backbone"], other]} | changes)


def test_features_are_not_multiplied_by_the_backbones(folder):
    grid = mixed(folder, protocol=["paper", "paper+batch_norm"])
    places = [(cell.dataset, cell.backbone) for cell in cells(grid)]
    assert sorted(places) == [
        ("mine", "own_features"),
        *(("s_glyphs", name) for name in ("other", "other-drifting", "small", "small-drifting")),
    ]
    check_inputs(mixed(folder))
    jobs = recall_jobs(mixed(folder), RecallSettings())
    assert {(job.dataset, job.backbone) for job in jobs} == {
        ("mine", "own_features"), ("s_glyphs", "small"), ("s_glyphs", "other")
    }  # fmt: skip
    with pytest.raises(UserError, match=r"mine has no 'small'; it has: own_features"):
        ensure_features(mixed(folder), "mine", "small")


def test_the_place_of_the_features_depends_on_their_content_only(tmp_path):
    vectors(tmp_path / "mine.npz")
    first = Layout(grid_of(tmp_path)).features("mine", "own_features")
    block = MINE | {"path": str(vectors(tmp_path / "copy.npz"))}
    assert Layout(grid_of(tmp_path, datasets={"mine": block})).features("mine", "own_features") == first
    block = MINE | {"path": str(vectors(tmp_path / "wider.npz", width=7))}
    assert Layout(grid_of(tmp_path, datasets={"mine": block})).features("mine", "own_features") != first


@pytest.mark.reliability("unused-backbone")
def test_backbones_and_features_that_do_not_belong_together(folder):
    grid = mixed(folder)
    values = grid.model_dump()
    with pytest.raises(UserError, match="config: backbone is missing: s_glyphs has images"):
        load_grid(values | {"backbone": None})
    named = values["backbone"][0] | {"name": "own_features"}
    with pytest.raises(UserError, match="the name 'own_features' stands for data sets of source features"):
        load_grid(values | {"backbone": named})
    mine = {"mine": values["datasets"]["mine"]}
    with pytest.raises(UserError, match="config: backbone: no data set uses it, as all have source features"):
        check_inputs(load_grid(values | {"datasets": mine}))
    with pytest.raises(
        UserError, match=r"config: protocol: paper\+batch_norm changes a backbone's batch norm"
    ):
        grid_of(folder, protocol="paper+batch_norm")
    for key in ("views", "batch_norm"):
        with pytest.raises(UserError, match=f"unknown key 'datasets.mine.{key}'"):
            grid_of(folder, datasets={"mine": MINE | {key: 2}})
    pretrained = values["backbone"][0] | {"pretrain": {"dataset": {"source": "features", "path": "mine.npz"}}}
    with pytest.raises(UserError, match=r"pretrain\.dataset: source features has no images to pre-train on"):
        check_inputs(load_grid(values | {"backbone": pretrained}))


@pytest.mark.reliability("bad-features")
def test_bad_features_are_refused_before_any_job(tmp_path, capsys):
    path = vectors(tmp_path / "mine.npz")
    grid = {"datasets": {"mine": MINE | {"path": str(path), "tasks": 3}}, "data_dir": str(tmp_path / "data")}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    assert main(["check", "--config", str(tmp_path / "grid.yaml")]) == 1
    assert "error: config: datasets.mine: tasks: 3 does not divide 4 classes" in capsys.readouterr().err
    np.savez(path, train_features=np.zeros((4, 2)))
    assert main(["check", "--config", str(tmp_path / "grid.yaml")]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: config: datasets.mine: ") and shown.count("\n") == 1
    assert "has no array 'test_features'; it has: train_features" in shown


@pytest.mark.pipeline
def test_a_real_run_without_a_backbone(tmp_path):
    """Two data sets of features share the pseudo backbone. Tables, verify, and a second run."""
    copy_project(tmp_path)
    for name in ("one", "two"):
        vectors(tmp_path / f"{name}.npz", width=6 if name == "one" else 5)
    values = {
        "datasets": {name: MINE | {"path": f"{name}.npz"} for name in ("one", "two")},
        "methods": ["er"],
        "buffers": [8],
        "scenarios": ["class_il"],
        "seeds": [0, 1],
        "sharc": {"theta": 0.5},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    done = snakemake(tmp_path, "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(tmp_path / "results/runs.csv")
    assert set(zip(runs.dataset, runs.backbone, strict=True)) == {
        ("one", "own_features"), ("two", "own_features")
    }  # fmt: skip
    assert (runs.data == runs.weights).all(), "the hash of the data stands in place of that of the weights"
    assert (runs[runs.variant == "plain"].acc > 60).all()
    assert "Backbone here: own_features, as given;" in (tmp_path / "results/report.html").read_text()
    checked = sharc_core(tmp_path, "verify", "results", "--data")
    assert checked.returncode == 0 and "note" not in checked.stdout, checked.stdout + checked.stderr
    (tmp_path / "one.npz").rename(tmp_path / "renamed.npz")
    values["datasets"]["one"]["path"] = "renamed.npz"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    again = snakemake(tmp_path, "--configfile", "mine.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr
