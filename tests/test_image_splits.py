"""test_split, test_fraction and split_seed: held-out images and refused settings."""

import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from image_factory import fill, folder_source, picture, split_names
from pydantic import ValidationError
from test_image_names import counted, refused

from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES, open_prepared
from sharc_core.datasets.archives import Container
from sharc_core.grid.loading import load_grid


def class_names(classes: dict[str, int]) -> list[str]:
    return [f"{name}/{number}.png" for name, count in classes.items() for number in range(count)]


def split_of(path: Path, tmp_path: Path, **values) -> dict[str, dict[str, list[str]]]:
    """Return file names without folders, by split and class."""
    index = folder_source(path, tmp_path / "data", **values).index()
    return {
        s: {c: [Path(f).name for f in files] for c, files in classes.items()} for s, classes in index.items()
    }


@pytest.fixture
def classes(tmp_path) -> Path:
    return fill(tmp_path / "images", class_names({"a": 10, "b": 5, "c": 2}))


# --- test_split ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["val", "valid", "validation", "Test", "dev", "eval", "holdout 2", "tëst", "テスト", "test_set", "1"],
)
def test_another_name_of_the_test_folder(tmp_path, name):
    names = [n.replace("test/", f"{name}/") for n in split_names(["a", "b"], 3, 2)]
    tree = fill(tmp_path / "images", names)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tree, "top")
    for path in (tree, tmp_path / "a.tar"):
        assert counted(path, tmp_path, test_split=name) == (
            {"train": {"a": 3, "b": 3}, "test": {"a": 2, "b": 2}},
            [],
        )
        message = (
            rf"has no test images: .*; set test_split to .* \({name}/ is there\), or test_fraction to hold"
        )
        refused(path, tmp_path, message)


def test_with_test_and_val_one_is_taken_and_the_other_counted(tmp_path):
    names = split_names(["a", "b"], 2, 1)
    tree = fill(tmp_path / "images", [*names, *(n.replace("test/", "val/") for n in names[-2:])])
    for name, other in (("test", "val"), ("val", "test")):
        source = folder_source(tree, tmp_path / "data", test_split=name)
        assert source.index()["test"]["a"] == [f"{name}/a/0.png"]
        expected = rf"2 files were left out, e.g. {other}/a/0.png (expected <train|{name}>/<class>/<image>"
        assert counted(tree, tmp_path, test_split=name)[1][0].startswith(expected)


@pytest.mark.reliability("missing-split")
def test_the_line_for_a_missing_split_names_the_keys(tmp_path):
    tree = fill(tmp_path / "images", ["train/a/1.png", "train/b/1.png"])
    message = (
        r"images has no test images: expected test/<class>/<image>; set test_split to the name of the "
        r"folder that holds them, or test_fraction to hold out a share of every class$"
    )
    refused(tree, tmp_path, message)
    fill(tree, ["val/a/1.png", "valid/b/1.png", "notes/1.png"])
    refused(tree, tmp_path, r"that holds them \(val/, valid/ is there\)")
    refused(tree, tmp_path, "expected dev/<class>/<image>; set test_split to the name", test_split="dev")
    bare = fill(tmp_path / "bare", ["a/1.png", "a/2.png", "b/1.png", "b/2.png"])
    refused(
        bare, tmp_path, r"has no train images: .*; set test_fraction if there is no split, only <class>/<im"
    )
    other = fill(tmp_path / "other", [n.replace("train/", "Train/") for n in split_names(["a", "b"])])
    refused(other, tmp_path, "has no train images: .*; rename the folder of the training images to train$")


# --- test_fraction ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "test"),
    [
        (0.001, (1, 1, 1)),
        (0.1, (1, 1, 1)),
        (0.2, (2, 1, 1)),
        (0.25, (3, 1, 1)),
        (0.3, (3, 2, 1)),
        (0.5, (5, 3, 1)),
        (0.74, (7, 4, 1)),
        (0.9, (9, 4, 1)),
        (0.999, (9, 4, 1)),
        (1e-300, (1, 1, 1)),
    ],
)
def test_a_share_of_every_class_is_held_out(classes, tmp_path, fraction, test):
    index, said = counted(classes, tmp_path, test_fraction=fraction)
    expected = dict(zip("abc", test, strict=True))
    assert index == {
        "train": {name: n - expected[name] for name, n in {"a": 10, "b": 5, "c": 2}.items()},
        "test": expected,
    }
    assert said == []


def test_split_does_not_depend_on_the_container_or_file_order(classes, tmp_path, monkeypatch):
    """A folder, a zip and a tar with a top folder give the same split in any order of files."""
    expected = split_of(classes, tmp_path, test_fraction=0.3, split_seed=5)
    assert expected["test"]["a"] == ["1.png", "6.png", "9.png"]  # a change would change every user's split
    files = sorted(p for p in classes.rglob("*.png"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in random.Random(0).sample(files, len(files)):
            archive.write(file, file.relative_to(classes))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for file in files[::-1]:
            archive.add(file, f"./top/{file.relative_to(classes)}")
    for path in (tmp_path / "a.zip", tmp_path / "a.tar.gz"):
        assert split_of(path, tmp_path, test_fraction=0.3, split_seed=5) == expected
    names = Container.names
    monkeypatch.setattr(Container, "names", lambda self: names(self)[::-1])
    assert split_of(classes, tmp_path, test_fraction=0.3, split_seed=5) == expected


def test_seeds_and_fractions_differ_and_classes_do_not_depend_on_each_other(classes, tmp_path):
    splits = {seed: split_of(classes, tmp_path, test_fraction=0.3, split_seed=seed) for seed in range(12)}
    held_out = {tuple(split["test"]["a"]) for split in splits.values()}
    assert len(held_out) > 8
    assert {name for names in held_out for name in names} == {f"{n}.png" for n in range(10)}
    more = split_of(classes, tmp_path, test_fraction=0.5)
    assert set(splits[0]["test"]["a"]) < set(more["test"]["a"])
    fill(classes, class_names({"d": 4}))
    fourth = split_of(classes, tmp_path, test_fraction=0.3)["test"]
    assert len(fourth.pop("d")) == 1
    assert fourth == splits[0]["test"]


def test_folder_above_the_classes_does_not_change_the_split(classes, tmp_path):
    expected = split_of(classes, tmp_path, test_fraction=0.3)
    for name in ("set", "train", "archive/pictures/train"):
        (tmp_path / "moved" / name).parent.mkdir(parents=True, exist_ok=True)
        classes.rename(tmp_path / "moved" / name)
        assert split_of(tmp_path / "moved", tmp_path, test_fraction=0.3) == expected
        (tmp_path / "moved" / name).rename(classes)


def test_prepared_images_of_a_fraction(classes, tmp_path):
    source = folder_source(classes, tmp_path / "data", test_fraction=0.3)
    source.check()
    source.prepare(tmp_path / "out")
    data = open_prepared(tmp_path / "out", verify=True)
    assert data.classes == ["a", "b", "c"]
    assert source.counts() == {"train": 11, "test": 6}
    images = [*data.train_images, *data.test_images]
    assert len({image.tobytes() for image in images}) == len(images) == 17
    assert data.test_labels.tolist() == [0, 0, 0, 1, 1, 2]


def test_without_a_split_too_what_is_left_out_is_counted(classes, tmp_path):
    fill(classes, ["a/sub/1.png", "cover.png", "readme.txt", "b/1.avif"])
    index, said = counted(classes, tmp_path, test_fraction=0.3)
    assert index["train"] == {"a": 7, "b": 3, "c": 1}
    (line,) = said
    assert line.startswith(
        "3 files were left out, e.g. a/sub/1.png (expected <class>/<image> with an extension"
    )


@pytest.mark.reliability("missing-split")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            split_names(["a", "b"], 2, 2),
            "has a split already, train/ and test/: leave out test_fraction, and set",
        ),
        (
            [n.replace("test/", "val/") for n in split_names(["a"], 2, 2)],
            "already, train/ and val/: .*test_split to val",
        ),
        ([f"top/{n}" for n in split_names(["a", "b"], 2, 2)], "has a split already, train/ and test/"),
        (
            ["a/1.png", "a/2.png", "b/1.png"],
            "class 'b' has one image, and test_fraction needs two, .*: add some",
        ),
        (["x/a/1.png", "y/a/1.png"], r"several data sets, in x/ and in y/: keep the classes side by side"),
        (["a/1.png", "a/2.png"], "has only one class; a stream needs two at least"),
        (
            ["a/1.png", "a/2.png", "b/sub/1.png"],
            "no file of the class folder b can be taken, e.g. b/sub/1.png: exp",
        ),
        (
            ["a/1.png", "a/2.png", "b/1.heic"],
            "no file of the class folder b can be taken, e.g. b/1.heic: expected",
        ),
        (
            ["data/1.png", "data/2.png", "data/a/1.png"],
            r"only one class \(data/a/1.png is left out, for example\)",
        ),
        (["1.png", "2.png"], "has no images: expected <class>/<image> with an extension"),
        (["notes.txt"], "has no images: expected <class>/<image> with an extension"),
    ],
)
def test_layouts_that_do_not_fit_a_fraction_are_refused(tmp_path, names, message):
    refused(fill(tmp_path / "images", names), tmp_path, message, test_fraction=0.5)


# --- the settings ----------------------------------------------------------------------------------


@pytest.mark.reliability("missing-split")
@pytest.mark.parametrize(
    "values",
    [
        {"test_split": "train"},
        {"test_split": ""},
        {"test_split": ".hidden"},
        {"test_split": "a/b"},
        {"test_split": "a\\b"},
        {"test_split": "x" * 300},
        {"test_split": None},
        {"test_split": 1},
        {"test_split": "val", "test_fraction": 0.5},
        {"test_fraction": 0},
        {"test_fraction": 1},
        {"test_fraction": -0.1},
        {"test_fraction": float("nan")},
        {"test_fraction": "0.5"},
        {"test_fraction": True},
        {"split_seed": 3},
        {"split_seed": -1, "test_fraction": 0.5},
        {"split_seed": 0.5, "test_fraction": 0.5},
        {"split_seed": 2**63, "test_fraction": 0.5},
    ],
)
def test_settings_that_are_refused(tmp_path, values):
    with pytest.raises(ValidationError):
        SOURCES.get("image_folder").Settings(path="x", **values)


def test_the_grid_file_says_which_setting_has_no_effect():
    def block(**values):
        return {
            "datasets": {"mine": {"source": "image_folder", "path": "x", "tasks": 2, **values}},
            "backbone": {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
        }

    load_grid(block(test_fraction=0.2, split_seed=7))
    for values, message in (
        (
            {"split_seed": 7},
            r"datasets\.mine: split_seed has no effect without test_fraction: set it, or drop",
        ),
        ({"test_split": "train"}, "test_split is train, the folder of the training images: name another"),
        ({"test_split": "val", "test_fraction": 0.2}, "test_fraction needs none: drop one of them"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_grid(block(**values))
        assert "\n" not in str(caught.value)


def test_a_test_split_in_decomposed_letters(tmp_path):
    tree = fill(tmp_path / "images", [n.replace("test/", "te\u0301st/") for n in split_names(["a", "b"])])
    assert picture() and counted(tree, tmp_path, test_split="t\u00e9st")[0]["test"] == {"a": 1, "b": 1}
