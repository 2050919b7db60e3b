"""mini-ImageNet in all its formats, and Tiny-ImageNet: content, order and refusal of bad input."""

import importlib
import json
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archive_factory import Written, mini_files, png, write_mini, write_mirror, write_tiny
from PIL import Image

from sharc_core.common.errors import Missing, UserError
from sharc_core.datasets import SOURCES, open_prepared
from sharc_core.datasets.archives import natural
from sharc_core.datasets.mini_imagenet_forms import PICKLES
from sharc_core.datasets.wnids import MINI_IMAGENET, TINY_IMAGENET

FEW = {"train_per_class": 3, "test_per_class": 2}


def mini(folder: Path, path: Path | None, mirror: Path | None = None, **values):
    kind = SOURCES.get("mini_imagenet")
    values = FEW | ({"path": str(path)} if path else {}) | values
    return kind(kind.Settings(**values), folder / "data", mirror)


def prepared(folder: Path, source):
    source.check()
    source.prepare(folder / "out")
    return open_prepared(folder / "out", verify=True)


def refused(action, message: str, kind: type = UserError) -> None:
    with pytest.raises(kind, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


def whole_classes(written: Written) -> dict[str, np.ndarray]:
    """Return the five images of each class, first training and then test images."""
    train, test = (a.reshape(100, -1, 84, 84, 3) for a in (written.train_images, written.test_images))
    return {wnid: np.concatenate([train[i], test[i]]) for i, wnid in enumerate(MINI_IMAGENET)}


@pytest.fixture(scope="module")
def pickles(tmp_path_factory) -> Written:
    return write_mini(tmp_path_factory.mktemp("mini"), 3, 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory, pickles) -> Path:
    """Write <split>/<class>/<image> losslessly, with names that need natural sorting."""
    root = tmp_path_factory.mktemp("files")
    for number, (wnid, images) in enumerate(whole_classes(pickles).items()):
        folder = root / ("train", "val", "test")[number % 3] / wnid
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            (folder / f"{wnid}_{i + 8}.png").write_bytes(png(image))
    return root


# --- mini-ImageNet ---------------------------------------------------------------------------------


def test_the_class_lists_are_sorted_and_whole():
    for wnids, count in ((MINI_IMAGENET, 100), (TINY_IMAGENET, 200)):
        assert len(set(wnids)) == count
        assert wnids == sorted(wnids)
        assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)


def test_the_split_of_the_original_is_the_default():
    settings = SOURCES.get("mini_imagenet").Settings()
    assert (settings.train_per_class, settings.test_per_class, settings.size) == (500, 100, 84)


def test_pickles_are_read(tmp_path, pickles):
    data = prepared(tmp_path, mini(tmp_path, pickles.path))
    pickles.check(data)
    assert data.classes == MINI_IMAGENET
    assert data.manifest["counts"]["train_per_class"] == [3] * 100
    assert data.manifest["counts"]["test"] == 200
    assert data.manifest["content_ids"][0] == "wnid:n01532829"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_python_3(tmp_path, protocol):
    written = write_mini(tmp_path / "mini", pickled=lambda content: pickle.dumps(content, protocol))
    written.check(prepared(tmp_path, mini(tmp_path, written.path)))


@pytest.mark.parametrize(
    "names",
    [
        ["miniImageNet_category_split_train_phase_train.pickle", "miniImageNet_category_split_val.pickle"]
        + ["miniImageNet_category_split_test.pickle"],
        ["train.pkl", "val.pkl", "test.pkl"],
        ["train.pickle", "val.pickle", "test.pickle"],
    ],
)
def test_pickles_with_labels(tmp_path, names, pickles):
    """With `data`, `labels` and `catname2label`, a class's images keep the order of the file."""
    contents, _ = mini_files(3, 2)
    for name, (images, numbers) in zip(names, contents.values(), strict=True):
        labels, by_name = np.zeros(len(images), int), {}
        for label, (wnid, rows) in enumerate(numbers.items(), 10):
            by_name[wnid], labels[rows] = label, label
        content = {"data": images, "labels": labels.tolist(), "catname2label": by_name}
        (tmp_path / name).write_bytes(pickle.dumps(content))
    # a further file with 300 images of each existing class, which must not be read
    (tmp_path / "miniImageNet_category_split_train_phase_val.pickle").write_bytes(b"not read")
    pickles.check(prepared(tmp_path, mini(tmp_path, tmp_path)))


def test_an_index_array_will_do_for_a_list(tmp_path, pickles):
    contents, _ = mini_files(3, 2)
    for split, (images, numbers) in contents.items():
        numbers = {wnid: np.array(rows) for wnid, rows in numbers.items()}
        content = pickle.dumps({"image_data": images, "class_dict": numbers})
        (tmp_path / f"mini-imagenet-cache-{split}.pkl").write_bytes(content)
    pickles.check(prepared(tmp_path, mini(tmp_path, tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", ".zip", ".tar", ".tgz"])
@pytest.mark.parametrize("top", ["", "mini/"])
def test_image_files_are_read(tmp_path, pickles, files, ending, top):
    path = tmp_path / f"images{ending}"
    if not ending:
        shutil.copytree(files, path / top)
    elif ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files.rglob("*.png"):
                archive.write(file, top + file.relative_to(files).as_posix())
    else:
        with tarfile.open(path, "w:gz" if ending == ".tgz" else "w") as archive:
            archive.add(files, top or ".")
    pickles.check(prepared(tmp_path, mini(tmp_path, path)))


@pytest.mark.slow
def test_images_of_a_class_in_several_splits_are_ordered(tmp_path, pickles):
    """The images of a class below several splits are ordered train, val, test."""
    images = whole_classes(pickles)
    for number, wnid in enumerate(MINI_IMAGENET):
        for i, image in enumerate(images[wnid]):
            part = "" if number else ("train", "train", "val", "test", "test")[i]
            folder = tmp_path / "images" / part / wnid
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i if number else 9 - i}.png").write_bytes(png(image))
    images[MINI_IMAGENET[0]] = images[MINI_IMAGENET[0]][[1, 0, 2, 4, 3]]  # 8 before 9, 5 before 6
    data = prepared(tmp_path, mini(tmp_path, tmp_path / "images"))
    found = np.concatenate([data.train_images[:3], data.test_images[:2]])
    assert np.array_equal(found, images[MINI_IMAGENET[0]])
    assert np.array_equal(data.train_images[3:], pickles.train_images[3:])


@pytest.mark.slow
def test_other_sizes_are_brought_to_one(tmp_path, pickles, files):
    path = tmp_path / "images"
    shutil.copytree(files, path)
    first = next(path.rglob(f"{MINI_IMAGENET[0]}_8.png"))
    large = np.repeat(np.repeat(pickles.train_images[0], 2, 0), 3, 1)
    first.write_bytes(png(large))
    data = prepared(tmp_path, mini(tmp_path, path))
    assert data.train_images.shape == (300, 84, 84, 3)
    assert np.array_equal(data.train_images[1:], pickles.train_images[1:])
    assert data.train_images[0].std() > 0
    data = prepared(tmp_path, mini(tmp_path, pickles.path, size=32))
    assert data.train_images.shape == (300, 32, 32, 3)
    expected = np.asarray(Image.fromarray(pickles.train_images[5]).resize((32, 32), Image.BILINEAR))
    assert np.array_equal(data.train_images[5], expected)


def parquet_files(folder: Path, pickles: Written, labels: str) -> None:
    """Write two train files and one validation file, with images as {bytes, path} as on hubs."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [(wnid, image) for wnid, images in whole_classes(pickles).items() for image in images]
    names = sorted(MINI_IMAGENET, key=natural, reverse=True)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "validation-0.parquet": rows[400:],
        "train-10.parquet": rows[150:400],
        "train-2.parquet": rows[:150],
    }
    for name, part in parts.items():
        table = arrow.table(
            {
                "image": [{"bytes": png(image), "path": None} for _, image in part],
                "label": [wnid if labels == "text" else names.index(wnid) for wnid, _ in part],
            }
        )
        if labels == "numbers":
            noted = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
        parquet.write_table(table, folder / name)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["text", "numbers"])
def test_parquet_files_are_read(tmp_path, pickles, labels):
    parquet_files(tmp_path / "files/data", pickles, labels)
    pickles.check(prepared(tmp_path, mini(tmp_path, tmp_path / "files")))


def test_parquet_labels_without_names(tmp_path, pickles):
    parquet_files(tmp_path / "files", pickles, "bare numbers")
    message = r"train-2\.parquet: label 99 has no name in its metadata: expected labels that are WordNet"
    refused(mini(tmp_path, tmp_path / "files").check, message)


@pytest.mark.reliability("bad-arrays")
def test_damaged_parquet(tmp_path, pickles):
    parquet_files(tmp_path / "files", pickles, "text")
    path = tmp_path / "files/train-2.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    refused(mini(tmp_path, path).check, r"train-2\.parquet cannot be read, it is corrupt or cut short")
    arrow = importlib.import_module("pyarrow")
    importlib.import_module("pyarrow.parquet").write_table(arrow.table({"picture": [b""]}), path)
    refused(mini(tmp_path, path).check, r"has no column 'label', only picture: expected image and label")


def test_parquet_without_pyarrow_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    real = importlib.import_module

    def absent(name, *more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", absent)
    message = r": parquet files need pyarrow, which is not installed: pip install pyarrow, or give"
    for path in (tmp_path, tmp_path / "a.parquet"):
        refused(mini(tmp_path, path).check, message)


# --- mini-ImageNet: default places and bad input ----------------------------------------------------


@pytest.mark.parametrize("place", ["mirror", "data/downloads"])
def test_without_a_path_it_is_looked_for(tmp_path, pickles, place):
    shutil.copytree(pickles.path, tmp_path / place / "mini-imagenet")
    (tmp_path / "mirror").mkdir(exist_ok=True)
    pickles.check(prepared(tmp_path, mini(tmp_path, None, tmp_path / "mirror")))


@pytest.mark.reliability("incomplete-mirror")
def test_error_for_missing_data_says_where_to_put_it(tmp_path):
    source = mini(tmp_path, None, tmp_path / "mirror")
    places = f"{tmp_path / 'mirror/mini-imagenet'} or {tmp_path / 'data/downloads/mini-imagenet'}"
    message = rf"about 1\.3 GB as pickles\) has no official download: put a folder {places} there, with"
    for action in (source.check, lambda: source.prepare(tmp_path / "out")):
        refused(action, message, Missing)
    assert source.identity()["content"] is None
    refused(
        mini(tmp_path, tmp_path / "gone").check, "gone does not exist: give mini-ImageNet's pickles", Missing
    )


def test_identity_follows_the_files(tmp_path):
    written = write_mini(tmp_path / "mini")
    before = mini(tmp_path, written.path).identity()
    assert mini(tmp_path, written.path).identity() == before
    path = written.path / "mini-imagenet-cache-val.pkl"
    path.write_bytes(path.read_bytes() + b".")
    assert mini(tmp_path, written.path).identity() != before


def rewritten(path: Path, change) -> None:
    content = {split: {"image_data": i, "class_dict": n} for split, (i, n) in mini_files(3, 2)[0].items()}
    change(content)
    for split, values in content.items():
        (path / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(values))


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


def first(content: dict) -> tuple[dict, str]:
    """Return the classes of the validation file, and the first one."""
    classes = content["val"]["class_dict"]
    return classes, next(iter(classes))


BAD_PICKLES = {
    "forbidden class": (
        lambda c: c["val"].update(image_data=Hostile()),
        r"cache-val\.pkl is refused: it asks for builtins\.exec, and only arrays",
    ),
    "wrong shape": (
        lambda c: c["test"].update(image_data=c["test"]["image_data"][..., :2]),
        r"cache-test\.pkl: image_data \(or data\) is uint8 \(100, 84, 84, 2\), expected uint8 \(n, ",
    ),
    "no images": (
        lambda c: c["test"].pop("image_data"),
        r"cache-test\.pkl: image_data \(or data\) is NoneType",
    ),
    "no classes": (
        lambda c: c["test"].pop("class_dict"),
        r"cache-test\.pkl does not say which of its 100 images are of which class, by class_dict or by",
    ),
    "a number too high": (
        lambda c: first(c)[0].update({first(c)[1]: [80, 1, 2, 3, 4]}),
        r"cache-val\.pkl does not say which of its 80 images are of which class",
    ),
    "too few images": (
        lambda c: first(c)[0][first(c)[1]].pop(),
        r"class n\d{8} has 4 images, expected 3 to train and 2 to test: complete the class, or set",
    ),
    "an image twice": (
        lambda c: first(c)[0].update({first(c)[1]: [0, 0, 1, 2, 3]}),
        r"class n\d{8} lists an image twice: get the file again",
    ),
    "a class missing": (
        lambda c: first(c)[0].pop(first(c)[1]),
        r"class n\d{8} has 0 images, expected 3 to train and 2 to test",
    ),
    "other classes": (
        lambda c: [v.update(class_dict={"cat": [1]}) for v in c.values()],
        r"has no class of mini-ImageNet, such as n01532829: expected the three files of one origin",
    ),
}


@pytest.mark.slow
@pytest.mark.reliability("bad-arrays")
@pytest.mark.parametrize("case", BAD_PICKLES)
def test_bad_pickles_are_one_line(tmp_path, case):
    change, message = BAD_PICKLES[case]
    rewritten(tmp_path, lambda content: (change(content), None)[1])
    refused(lambda: mini(tmp_path, tmp_path).prepare(tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def test_a_pickle_too_few_is_found_before_any_job(tmp_path):
    rewritten(tmp_path, lambda content: None)
    (tmp_path / "mini-imagenet-cache-val.pkl").unlink()
    message = r"has no mini-imagenet-cache-val\.pkl next to the other pickles: put it there$"
    refused(mini(tmp_path, tmp_path).check, message)


def test_a_pickle_cut_short(tmp_path):
    rewritten(tmp_path, lambda content: None)
    path = tmp_path / "mini-imagenet-cache-val.pkl"
    path.write_bytes(path.read_bytes()[:-1000])
    message = r"cache-val\.pkl is not a readable pickle, it is damaged or cut short"
    refused(lambda: mini(tmp_path, tmp_path).prepare(tmp_path / "out"), message)


def test_image_files_are_counted_before_any_job(tmp_path, files):
    path = tmp_path / "images"
    shutil.copytree(files, path)
    next(path.rglob("n01532829_8.png")).unlink()
    refused(mini(tmp_path, path).check, r"class n01532829 has 4 images, expected 3 to train and 2 to test")
    refused(mini(tmp_path, path, train_per_class=500).check, "expected 500 to train and 2 to test")
    (tmp_path / "empty").mkdir()
    message = r"empty has no class of mini-ImageNet, such as n01532829: expected <class>/<image>"
    refused(mini(tmp_path, tmp_path / "empty").check, message)


def test_bombs_and_damaged_images_are_named(tmp_path, files, monkeypatch):
    path = tmp_path / "images"
    shutil.copytree(files, path)
    bad = next(path.rglob("n01532829_9.png"))
    bad.write_bytes(bad.read_bytes()[:200])
    message = r"n01532829_9\.png is not a readable image"
    refused(lambda: mini(tmp_path, path).prepare(tmp_path / "out"), message)
    bad.write_bytes(png(np.zeros((200, 200, 3), np.uint8)))
    monkeypatch.setattr("sharc_core.datasets.pictures.PIXEL_LIMIT", 199 * 199)
    message = r"n01532829_9\.png is 200 x 200 pixels: too large, refused"
    refused(lambda: mini(tmp_path, path).prepare(tmp_path / "out"), message)


@pytest.mark.reliability("disk-too-small")
def test_too_small_a_disk_is_told_first(tmp_path, pickles, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 10**6))
    message = r"disk too small: mini-ImageNet's prepared images need 11 MB in .*data, 1 MB are free: make"
    refused(lambda: mini(tmp_path, pickles.path).prepare(tmp_path / "out"), message)


# --- Tiny-ImageNet ---------------------------------------------------------------------------------


def tiny(folder: Path, written: Written):
    kind = SOURCES.get("tiny_imagenet")
    return kind(kind.Settings(checksum=written.checksum), folder / "data", written.path.parent)


@pytest.mark.slow
def test_tiny_imagenet_is_read(tmp_path):
    """The test split is the validation images, sorted into classes by the annotations."""
    written = write_tiny(tmp_path / "mirror", 11, 2)
    data = prepared(tmp_path, tiny(tmp_path, written))
    written.check(data)
    assert data.classes == TINY_IMAGENET
    assert data.manifest["counts"]["train_per_class"] == [11] * 200
    assert data.manifest["counts"]["test"] == 400
    assert "wnid:n01443537" in data.manifest["content_ids"]


TOP = "tiny-imagenet-200"
NOTES = f"{TOP}/val/val_annotations.txt"
BAD_ZIPS = {
    "no annotations": (lambda f: f.pop(NOTES), r"has no tiny-imagenet-200/val/val_annotations\.txt: get the"),
    "an image without a file": (
        lambda f: f.pop(f"{TOP}/val/images/val_0.JPEG"),
        r"line 1 of val_annotations",
    ),
    "a line too short": (
        lambda f: f.update({NOTES: f[NOTES].replace(b"\t", b" ")}),
        r"line 1 of val_annotations\.txt names no image and class of the archive: get the original",
    ),
    "an unknown class": (
        lambda f: f.update({NOTES: f[NOTES].replace(b"n01443537", b"n00000000")}),
        r"val_\d+\.JPEG is of class n00000000, not one of the 200: get the original",
    ),
    "a class without validation images": (
        lambda f: f.update({NOTES: f[NOTES].replace(b"n01443537", b"n01629819")}),
        r"has no val image of class n01443537: get the original",
    ),
    "a class without images": (
        lambda f: [f.pop(name) for name in list(f) if f"{TOP}/train/n01443537/" in name],
        r"has no train image of class n01443537: get the original",
    ),
    "a damaged image": (
        lambda f: f.update({f"{TOP}/val/images/val_7.JPEG": b"JFIF"}),
        r"val_7\.JPEG is not a readable image",
    ),
}


@pytest.mark.slow
@pytest.mark.reliability("bad-arrays")
@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips_are_one_line(tmp_path, case):
    change, message = BAD_ZIPS[case]
    written = write_tiny(tmp_path / "mirror", 1, 1, change=change)
    refused(lambda: tiny(tmp_path, written).prepare(tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


# --- all four --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_mirror_of_stand_ins_serves_every_source(tmp_path):
    blocks = write_mirror(tmp_path / "mirror", 2, 1)
    assert set(blocks) == {"cifar10", "cifar100", "mini_imagenet", "tiny_imagenet"}
    for name, block in blocks.items():
        kind = SOURCES.get(block["source"])
        settings = kind.Settings(**{key: value for key, value in block.items() if key != "source"})
        source = kind(settings, tmp_path / "data", tmp_path / "mirror")
        source.check()
        source.prepare(tmp_path / name)
        manifest = open_prepared(tmp_path / name).manifest
        assert manifest["counts"]["train"] == 2 * len(source.class_names())
        assert manifest["counts"]["test"] == len(source.class_names())
        assert set(manifest["content_ids"]) == source.content_ids()
        assert manifest["source"] == name
    assert not (tmp_path / "data/downloads").exists()


def test_the_documentation_names_every_setting_and_pickle():
    """docs/config.md lists settings with defaults, names of pickles, and archives with sizes."""
    text = (Path(__file__).parents[1] / "docs/config.md").read_text()
    for name in ("cifar10", "cifar100", "mini_imagenet", "tiny_imagenet"):
        kind = SOURCES.get(name)
        (row,) = (line for line in text.splitlines() if line.startswith("| `") and f"`{name}`" in line)
        for key, field in kind.Settings.model_fields.items():
            assert f"`{key}`" in row
            assert field.default is None or f"`{key}` {field.default}" in row
        if hasattr(kind, "original"):
            archive = kind(kind.Settings(), Path("data")).original()
            assert f"| `{archive.name}` | {archive.size / 1e6:.0f} MB |" in text
    for names in PICKLES:
        stems = [
            name.split("_split_")[-1].removeprefix("mini-imagenet-cache-").split(".")[0] for name in names
        ]
        assert "{" + ",".join(stems) + "}" in text
