"""Storing images: their bytes, where their size comes from, and grids that have none."""

import shutil

import pandas as pd
import pytest
import yaml
from factories import make_cell, make_features
from snake import copy_project, sharc_core, snakemake
from test_config import BASE

from sharc_core import ensure_features, load_config, run_cell
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.learning.cell_memory import budget_of
from sharc_core.representations import REPRESENTATIONS
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import check_inputs

FEATURES = make_features(classes=6, train_per_class=25)
PRETRAIN = {"source": "glyphs", "classes": 4, "train_per_class": 4, "test_per_class": 2}
GRID = {
    "datasets": {"s_digits": {"source": "digits", "tasks": 5}},
    "backbone": {
        "arch": "resnet_small",
        "weights": "pretrain",
        "image_size": 16,
        "pretrain": {"dataset": PRETRAIN, "epochs": 1},
    },
    "methods": ["er"],
    "variants": ["plain"],
    "buffers": [10],
    "budget": {"unit": "slots"},
    "scenarios": ["class_il"],
    "seeds": [0],
    "storage": ["float32", "image"],
    "data_dir": "data",
}


def test_an_image_takes_its_pixels():
    """A CIFAR image takes 3,072 bytes, and one of mini-ImageNet 21,168, whatever the maps are."""
    for side, held in ((32, 3072), (84, 21_168)):
        image = REPRESENTATIONS.get("image")((512, 7, 7), image_shape=(side, side, 3))
        assert image.planned_bytes(512) == image.planned_bytes(1) == held
        assert image.encode(FEATURES.train_pooled[:3]).nbytes == 3 * held
    assert image.replays_images and not REPRESENTATIONS.get("pooled_float32").replays_images


@pytest.mark.parametrize("selection", ["last", "reservoir", "herding"])
def test_a_budget_of_bytes_is_filled_with_images(selection):
    cell = make_cell("er", storage="image", buffer=30, budget_unit="bytes", selection=selection, seeds=[0])
    costs = run_cell(FEATURES, cell)["costs"]
    samples = 30 * (12 * 4 * 2 + 2) // (5 * 4 * 3 + 2)
    assert samples - 3 < costs["samples_stored"][0] <= samples
    assert costs["episodic_bytes"] == [62 * costs["samples_stored"][0]]


@pytest.mark.reliability("no-images")
def test_images_are_refused_where_there_are_none():
    own = {"datasets": {"mine": {"source": "features", "path": "x.npz", "tasks": 2}}, "backbone": None}
    plain = {"storage": "image", "variants": ["plain"]}
    for change, message in (
        ({"variants": ["plain", "sharc"]}, "cannot be combined with variants sharc: it stores images, not"),
        (own, "cannot be combined with data set mine: source features has no images; use another storage"),
        (
            {"backbone": BASE["backbone"] | {"batch_norm": "drifting"}},
            "cannot be combined with batch_norm drifting, under which a replayed image has other features",
        ),
        (
            {"protocol": "paper+batch_norm"},
            "under protocol paper.batch_norm cannot be combined with batch_norm drifting, under which",
        ),
    ):
        with pytest.raises(UserError, match=f"^config: storage image {message}"):
            load_grid(BASE | plain | change)
    found = cells(load_grid(BASE | plain))
    assert {cell.storage for cell in found if cell.buffer} == {"image"}
    with pytest.raises(UserError, match="^storage image needs the prepared images of the data set, which te"):
        budget_of(next(cell for cell in found if cell.buffer), (12, 2, 2), 6)


@pytest.mark.pipeline
@pytest.mark.slow
def test_a_grid_stores_images(tmp_path, monkeypatch):
    """It has the accuracy of float32 maps at 3,072 bytes per image, and too small a budget is refused."""
    copy_project(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GRID))
    done = snakemake(tmp_path, "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(tmp_path / "results/runs.csv").set_index("storage")
    assert runs.loc["image", "acc"] == runs.loc["float32", "acc"]
    assert runs.loc["image", "episodic_bytes"] == 10 * (32 * 32 * 3 + 2)

    monkeypatch.chdir(tmp_path)
    grid = load_config("mine.yaml")
    image = next(cell for cell in cells(grid) if cell.storage == "image")
    features = ensure_features(grid, "s_digits")
    assert features.manifest["image_shape"] == [32, 32, 3]
    assert run_cell(features, image)["costs"]["episodic_bytes"] == [10 * (32 * 32 * 3 + 2)]
    of_bytes = GRID | {"storage": "image", "budget": {"unit": "bytes"}}
    check_inputs(load_grid(of_bytes | {"buffers": [20]}))
    with pytest.raises(UserError, match="holds no sample of task 1 of 5: .* one sample takes 3,074; raise"):
        check_inputs(load_grid(of_bytes | {"buffers": [5]}))

    # the job of the cell asks for prepared images that were deleted, and for nothing else
    shutil.rmtree(Layout(grid).prepared("s_digits"))
    (tmp_path / "results/matrices/s_digits/resnet_small-pretrain").joinpath(f"{image.id}.json").unlink()
    done = snakemake(tmp_path, "--configfile", "mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    again = pd.read_csv(tmp_path / "results/runs.csv").set_index("storage")
    assert again[["acc", "episodic_bytes"]].equals(runs[["acc", "episodic_bytes"]])
    checked = sharc_core(tmp_path, "verify", "results")
    assert checked.returncode == 0, checked.stdout + checked.stderr
