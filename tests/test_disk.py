"""Disk space for the feature cache, checked before anything runs."""

import copy
from types import SimpleNamespace

import pytest
from PIL import Image
from test_config import BASE

import sharc_core.features.cache as features_module
from sharc_core.common.errors import Missing, UserError
from sharc_core.datasets import Source, open_prepared
from sharc_core.features.folders import ViewFolder
from sharc_core.grid.loading import load_grid
from sharc_core.stages.build import prepare_data
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import ROOM, check_inputs

SMALL = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32}  # maps of 128 x 4 x 4
PER_IMAGE = 2 * 128 * 16 + 4 * 128 + 8
TRAIN, TEST = 1347, 450  # digits images


def grid(tmp_path, **changes):
    values = copy.deepcopy(BASE) | {"data_dir": str(tmp_path / "data"), "seeds": [0, 1, 2, 3, 4]}
    return load_grid(values | changes)


@pytest.fixture
def free(monkeypatch):
    """The number of free bytes, which a test sets as `free.free`."""
    box = SimpleNamespace(free=10**15)
    monkeypatch.setattr(features_module.shutil, "disk_usage", lambda path: box)
    return box


def needed(grid, free) -> int:
    """Return the smallest number of free bytes that passes, from the error; assert that it passes."""
    free.free = 0
    with pytest.raises(UserError, match=r"^config: data_dir: the features still to be extracted") as caught:
        check_inputs(grid)
    said = int(str(caught.value).split(" need ")[1].split(" bytes")[0].replace(",", ""))
    free.free = said - 1
    with pytest.raises(UserError, match=rf"has {said - 1:,} bytes free: free some space or set data_dir"):
        check_inputs(grid)
    free.free = said
    check_inputs(grid)
    return said


@pytest.mark.reliability("disk-too-small")
@pytest.mark.slow
def test_every_data_set_backbone_and_view_counts(tmp_path, free):
    one = needed(grid(tmp_path), free)
    images = TRAIN + TEST
    assert images * PER_IMAGE <= one <= images * PER_IMAGE + 2_000_000
    three = needed(grid(tmp_path, backbone=SMALL | {"views": 3}), free)
    assert three - one == pytest.approx(2 * TRAIN * PER_IMAGE, abs=3_000_000), "test images count once"
    two = needed(grid(tmp_path, backbone=[SMALL, SMALL | {"name": "b", "image_size": 64}]), free)
    assert two - one == pytest.approx(images * (2 * 128 * 64 + 520), abs=2_000_000)


def test_what_an_interrupted_extraction_left_is_room(tmp_path, free):
    wanted = grid(tmp_path)
    before = needed(wanted, free)
    layout = Layout(wanted)
    folder = layout.features("s_digits", next(iter(layout.backbones)), ViewFolder(0))
    left = folder.parent / f".{folder.name}.abcd.part"
    left.mkdir(parents=True)
    (left / "train_maps.npy").write_bytes(bytes(1_000_000))
    assert needed(wanted, free) == before - 1_000_000


def test_features_that_are_there_need_no_room(tmp_path, free):
    wanted = grid(tmp_path, backbone=SMALL | {"views": 2})
    both = needed(wanted, free)
    layout = Layout(wanted)
    for view, rest in ((1, TRAIN * PER_IMAGE), (2, 0)):
        folder = layout.features("s_digits", next(iter(layout.backbones)), ViewFolder(view))
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        if rest:
            assert rest <= needed(wanted, free) < both - TEST * PER_IMAGE
    free.free = ROOM  # for results
    check_inputs(wanted)


def test_a_source_that_cannot_tell_is_left_out(tmp_path, free, monkeypatch):
    monkeypatch.setattr("sharc_core.datasets.digits.Digits.counts", Source.counts)
    free.free = ROOM
    check_inputs(grid(tmp_path))


@pytest.mark.parametrize(
    ("source", "images"),
    [
        ({"source": "cifar10"}, 60_000),
        ({"source": "cifar100"}, 60_000),
        ({"source": "mini_imagenet"}, 60_000),
        ({"source": "mini_imagenet", "train_per_class": 30, "test_per_class": 10}, 4_000),
        ({"source": "tiny_imagenet"}, 110_000),
    ],
)
def test_data_sets_that_are_yet_to_come_count_as_published(tmp_path, source, images):
    counts = grid(tmp_path, datasets={"d": source | {"tasks": 5}}).source("d").counts()
    assert sum(counts.values()) == images and counts["train"] > counts["test"]


def test_a_dry_run_does_without_files_that_are_yet_to_come(tmp_path, free, monkeypatch):
    def missing(self):
        raise Missing("they are yet to come")

    monkeypatch.setattr("sharc_core.datasets.digits.Digits.counts", missing)
    free.free = 0
    check_inputs(grid(tmp_path), planning=True)


def sources(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in "ab":
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8)).save(folder / f"{i}.png")
    return {
        "digits": {"source": "digits", "tasks": 5},
        "glyphs": {"source": "glyphs", "classes": 4, "tasks": 2, "train_per_class": 3, "test_per_class": 2},
        "image_folder": {"source": "image_folder", "path": str(tmp_path / "images"), "tasks": 1},
    }


@pytest.mark.parametrize("name", ["digits", "glyphs", "image_folder"])
def test_counts_are_those_of_the_prepared_images(tmp_path, name):
    source = grid(tmp_path, datasets={name: sources(tmp_path)[name]}).source(name)
    prepare_data(source, tmp_path / "prepared")
    counts = open_prepared(tmp_path / "prepared").manifest["counts"]
    assert source.counts() == {split: counts[split] for split in ("train", "test")}
