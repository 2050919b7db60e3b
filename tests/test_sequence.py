"""Several data sets as one: joined labels, or domains of the same classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from image_factory import encoded
from PIL import Image
from test_config import changed

from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES, open_prepared
from sharc_core.datasets.sequence import resized
from sharc_core.features.cache import Features
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.results.runs import runs_table
from sharc_core.stages.layout import Layout, data_code
from sharc_core.stages.preflight import check_inputs
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream, split_classes, streamed
from sharc_core.studies.tune.measure import run_tuning
from sharc_core.studies.tune.settings import TuneJob, TuneSettings

FEW = {"source": "glyphs", "classes": 3, "train_per_class": 4, "test_per_class": 2, "size": 16}
OTHER = {**FEW, "seed": 1, "size": 24, "name": "large"}
NAMES = [f"{part}/U+{point:04X}" for part in ("glyphs", "large") for point in (0x21, 0x23, 0x24)]


def source(folder: Path, *parts: dict, **values):
    kind = SOURCES.get("sequence")
    return kind(kind.Settings.model_validate({"parts": list(parts), **values}), folder / "data")


def grid_of(block: dict, **keys):
    return load_grid(changed("datasets", {"mix": {"source": "sequence", **block}}) | keys)


def test_images_and_labels_of_the_parts_follow_each_other(tmp_path):
    mix = source(tmp_path, FEW, OTHER)
    mix.check()
    mix.prepare(tmp_path / "mix")
    data = open_prepared(tmp_path / "mix", verify=True)
    assert [name.split("/")[0] for name in data.classes] == ["glyphs"] * 3 + ["large"] * 3
    assert data.classes == mix.class_names() and len(set(data.classes)) == 6
    assert data.train_images.shape == (24, 24, 24, 3) and mix.counts() == {"train": 24, "test": 12}
    assert (
        np.bincount(data.train_labels).tolist() == [4] * 6 == [2 * n for n in np.bincount(data.test_labels)]
    )
    for number, part in enumerate(mix.parts):
        part.prepare(tmp_path / str(number))
        own = open_prepared(tmp_path / str(number))
        rows = slice(12 * number, 12 * number + 12)
        np.testing.assert_array_equal(data.train_labels[rows], own.train_labels + 3 * number)
        np.testing.assert_array_equal(data.train_images[rows], resized(np.array(own.train_images), 24))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "mix"], "no temporary folder stays"
    assert mix.content_ids() == mix.parts[0].content_ids()


def test_a_resized_image_keeps_its_shape_on_black():
    images = np.full((2, 4, 8, 3), 200, np.uint8)
    square = resized(images, 16)
    assert square.shape == (2, 16, 16, 3) and square.dtype == np.uint8
    assert (square[:, 4:12] == 200).all() and (square[:, :4] == 0).all() and (square[:, 12:] == 0).all()
    assert resized(square, 16) is square


def test_it_is_what_its_parts_are(tmp_path):
    """Another setting, size, order or name of a part is another data set; the code of parts counts."""
    same = source(tmp_path, FEW, OTHER).identity()
    assert source(tmp_path, FEW, OTHER).identity() == same
    others = [
        source(tmp_path, FEW, {**OTHER, "seed": 2}),
        source(tmp_path, FEW, {**OTHER, "name": "big"}),
        source(tmp_path, OTHER, FEW),
        source(tmp_path, FEW, OTHER, size=32),
    ]
    identities = [str(one.identity()) for one in others] + [str(same)]
    assert len(set(identities)) == 5
    files = {Path(root).name for root in data_code(source(tmp_path, FEW, {"source": "digits"}))}
    assert files == {"datasets.base", "sequence.py", "glyphs.py", "digits.py"}


def test_own_images_are_known_by_their_content(tmp_path):
    """A folder that was moved is the same part."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            path = tmp_path / "one" / split / name / "1.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(encoded(Image.new("RGB", (12, 10), (len(name), 9, 9)), "PNG"))
    folder = {"source": "image_folder", "path": str(tmp_path / "one")}
    before = source(tmp_path, FEW, folder)
    before.check()
    assert before.class_names()[3:] == ["image_folder/a", "image_folder/b"]
    identity = before.identity()
    (tmp_path / "one").rename(tmp_path / "two")
    after = source(tmp_path, FEW, {**folder, "path": str(tmp_path / "two")})
    after.check()
    assert after.identity() == identity
    names = set()
    for name in ("two", "three"):
        (tmp_path / "two").rename(tmp_path / name)
        parts = [FEW, {**folder, "path": str(tmp_path / name)}]
        pretrain = {"dataset": {"source": "sequence", "parts": parts}}
        backbone = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32, "pretrain": pretrain}
        grid = load_grid(changed("backbone", backbone))
        names.add(Layout(grid).weights(grid.backbones[0].path_name))
    assert len(names) == 1, "the weights of a network that is pre-trained on it have the same name"
    with pytest.raises(UserError, match=r"datasets\.mix: part image_folder: .*one"):
        check_inputs(grid_of({"parts": [FEW, folder], "tasks": [3, 2]}))


def test_each_part_is_a_task_unless_the_file_gives_tasks():
    assert grid_of({"parts": [{"source": "digits"}, FEW]}).datasets["mix"].tasks == [10, 3]
    assert grid_of({"parts": [FEW, OTHER], "tasks": 3}).datasets["mix"].tasks == 3
    grid = grid_of({"parts": [FEW, OTHER], "labels": "same"}, scenarios="domain_il")
    assert grid.datasets["mix"].tasks == 2
    assert {tuple(cell.scenarios) for cell in cells(grid)} == {("domain_il",)}
    assert {cell.theta for cell in cells(grid)} == {None, 0.4}, "Class-IL's"
    check_inputs(grid)


def test_features_have_a_place_of_their_own(tmp_path):
    folders = [
        Layout(grid_of({"parts": [FEW, other]})).prepared("mix") for other in (OTHER, {"source": "digits"})
    ]
    assert folders[0] != folders[1] and folders[0].name.startswith("sequence-")


# --- domains ------------------------------------------------------------------------------------------


def domain_features() -> Features:
    """Two domains of three classes: the same clusters, and those with their channels shifted."""
    one, two = make_features(classes=3, separation=2.0), make_features(classes=3, separation=2.0, seed=1)
    values = {}
    for name in ("train_maps", "train_pooled", "train_labels", "test_maps", "test_pooled", "test_labels"):
        other = getattr(two, name) + (3 if name.endswith("labels") else 0)
        values[name] = torch.cat([getattr(one, name), other])
    return Features(**values, classes=[f"{d}/{c}" for d in "ab" for c in "xyz"], manifest=one.manifest)


DOMAINS = StreamConfig(tasks=2, labels="same")


def test_a_domain_is_a_task_with_all_classes():
    features, stream = streamed(domain_features(), DOMAINS, 0)
    assert stream.classes_per_task == [[0, 1, 2]] * 2 and stream.classes == 3 and stream.tasks == 2
    assert features.classes == ["x", "y", "z"]
    assert features.train_labels[stream.train[1]].unique().tolist() == [0, 1, 2]
    assert torch.equal(torch.cat(stream.train), torch.arange(240))
    assert stream.classes_seen(1) == [0, 1, 2] and stream.joint().classes_per_task == [[0, 1, 2]]


@pytest.mark.parametrize("variant", ["plain", "sharc"])
@pytest.mark.parametrize("order", [{}, {"order": "iid"}, {"order": "blurry", "blurry": 0.2}])
def test_domain_il_is_accuracy_among_all_classes_on_each_domain(variant, order):
    features = domain_features()
    cell = make_cell("er", variant, tasks=2, labels="same", scenarios=["domain_il"], seeds=[0, 1], **order)
    document = run_cell(features, cell)
    assert list(document["matrix"]) == ["domain_il"] == list(document["untrained"])
    assert document["classes_per_task"] == [[0, 1, 2]] * 2
    assert document["costs"]["learner_bytes"] == [4 * (12 + 1) * 3] * 2, "three outputs, not six"
    runs = runs_table([document])
    assert set(runs.scenario) == {"domain_il"} and "acc_weighted" not in runs


def test_ncm_on_domains_by_hand():
    features = domain_features()
    document = run_cell(
        features, make_cell("ncm", tasks=2, labels="same", scenarios=["domain_il"], seeds=[0])
    )
    labels, tested = features.train_labels % 3, features.test_labels % 3
    for after, seen in enumerate((120, 240)):
        x, y = features.train_pooled[:seen].double(), labels[:seen]
        means = torch.stack([x[y == label].mean(0) for label in range(3)])
        predicted = torch.cdist(features.test_pooled.double(), means).argmin(1)
        right = (predicted == tested).view(2, 45).double().mean(1) * 100
        assert document["matrix"]["domain_il"][0][after] == pytest.approx(right.tolist())


def test_domains_are_tuned_by_their_accuracy_among_all_classes():
    cell = make_cell("er", tasks=2, labels="same", scenarios=["domain_il"], seeds=[0])
    tune = TuneSettings.model_validate({"settings": {"training.lr": [0.001, 0.1]}, "trials": 2})
    rows = run_tuning(
        domain_features(), TuneJob(cell=cell.model_dump(mode="json"), tune=tune), lambda _: None
    )
    assert rows.reason.isna().all() and rows.class_il.equals(rows.task_il) and rows.class_il.gt(0).all()
    assert rows.chosen.sum() == 1 and rows.class_il[rows.chosen].item() == rows.class_il.max()


def test_joined_labels_are_ordinary_classes():
    labels = torch.arange(6).repeat_interleave(2)
    stream = make_stream(
        labels, labels, NAMES, StreamConfig(tasks=[["glyphs/U+0021", "large/U+0024"], [1, 2, 3, 4]])
    )
    assert stream.classes_per_task == [[0, 5], [1, 2, 3, 4]]


# --- bad input ----------------------------------------------------------------------------------------

DIGITS = {"source": "digits"}
BAD = [
    ({"parts": [DIGITS]}, r"datasets\.mix\.parts: .*at least 2"),
    ({}, r"datasets\.mix\.parts is missing"),
    ({"parts": [DIGITS, DIGITS]}, "two parts are called 'digits': give one of them another name"),
    ({"parts": [DIGITS, {"source": "sequence", "parts": []}]}, "a part cannot be a sequence"),
    (
        {"parts": [DIGITS, {"source": "glyph"}]},
        r"mix: parts\.1: unknown data source 'glyph' .*did you mean 'gly",
    ),
    ({"parts": [DIGITS, {"source": "glyphs"}]}, r"mix: parts\.1\.classes is missing"),
    ({"parts": [DIGITS, {**FEW, "sise": 3}]}, r"mix: unknown key 'parts\.1\.sise' \(did you mean 'size'"),
    (
        {"parts": [DIGITS, {"source": "features", "path": "x.npz"}]},
        "source features has features, not images",
    ),
    ({"parts": [DIGITS, {"classes": 3}]}, r"parts\.1\.source is missing"),
    ({"parts": [DIGITS, {**FEW, "name": "a/b"}]}, r"parts\.1\.name: .*match pattern"),
    ({"parts": [FEW, OTHER], "size": 4}, r"size: .*greater than or equal to 8"),
    ({"parts": [DIGITS, {**FEW, "classes": 10**6}]}, "mix: .*glyphs: classes 0 to 999999"),
    ({"parts": [FEW, OTHER], "tasks": [3, 2]}, "tasks: .* adds up to 5, but the data set has 6 classes"),
]
DOMAIN_BAD = [
    ({"parts": [DIGITS, FEW]}, r"labels: same needs the same class names in every part, but digits has no"),
    ({"parts": [FEW, OTHER], "tasks": 3}, "with labels same each of the 2 parts is a task: remove tasks"),
    ({"parts": [FEW, OTHER], "class_order_seed": 1}, "class_order_seed has no effect with labels same"),
]


def refused(block: dict, message: str, **keys) -> None:
    with pytest.raises(UserError, match=message) as caught:
        check_inputs(grid_of(block, **keys))
    assert str(caught.value).isprintable() and str(caught.value).startswith("config: ")


@pytest.mark.reliability("bad-sequence")
@pytest.mark.parametrize(("block", "message"), BAD)
def test_parts_that_do_not_fit_are_one_line_before_any_job(block, message):
    refused(block, message)


@pytest.mark.reliability("bad-sequence")
@pytest.mark.parametrize(("block", "message"), DOMAIN_BAD)
def test_domains_that_do_not_fit_are_one_line_before_any_job(block, message):
    refused({**block, "labels": "same"}, message, scenarios="domain_il")


@pytest.mark.reliability("bad-sequence")
def test_scenarios_fit_the_labels():
    domains = {"parts": [FEW, OTHER], "labels": "same"}
    refused(
        domains, "class_il does not fit data set mix, whose labels are same.*domain_il", scenarios="class_il"
    )
    refused(
        {"parts": [FEW, OTHER]},
        "domain_il does not fit data set mix, whose labels are joined.*labels same",
        scenarios=["domain_il"],
    )
    backbone = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32, "batch_norm": "adapted"}
    refused(
        domains,
        "labels same cannot be combined with batch_norm adapted",
        scenarios="domain_il",
        backbone=backbone,
    )


@pytest.mark.reliability("bad-sequence")
def test_one_data_set_has_no_domains():
    with pytest.raises(
        UserError, match="labels: same needs a data set of several parts: use source sequence"
    ):
        split_classes(6, DOMAINS)
