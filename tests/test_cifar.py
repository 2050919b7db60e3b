"""CIFAR-10 and CIFAR-100 from archives in the published format: reading and refusal."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from archive_factory import CIFAR, Written, cifar_files, python2_pickle, write_cifar

from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES, open_prepared

NAMES = sorted(CIFAR)


def prepared(folder: Path, name: str, written: Written):
    kind = SOURCES.get(name)
    source = kind(kind.Settings(checksum=written.checksum), folder / "data", written.path.parent)
    source.check()
    source.prepare(folder / "out")
    return open_prepared(folder / "out", verify=True)


@pytest.mark.parametrize("name", NAMES)
def test_images_and_labels_are_those_of_the_archive_in_its_order(tmp_path, name):
    written = write_cifar(tmp_path / "mirror", name)
    data = prepared(tmp_path, name, written)
    written.check(data)
    classes = len(CIFAR[name][0])
    assert data.manifest["counts"]["train"] == 5 * classes
    assert data.manifest["counts"]["test_per_class"] == [2] * classes
    assert data.classes == list(CIFAR[name][0])
    assert data.manifest["checksum"] == written.checksum


@pytest.mark.parametrize("name", NAMES)
def test_torchvision_reads_the_same(tmp_path, name, monkeypatch):
    from torchvision import datasets

    written = write_cifar(tmp_path / "mirror", name)
    data = prepared(tmp_path, name, written)
    with tarfile.open(written.path) as archive:
        archive.extractall(tmp_path, filter="data")
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)  # accept any checksum
    for split in ("train", "test"):
        theirs = kind(tmp_path, train=split == "train")
        assert np.array_equal(theirs.data, getattr(data, f"{split}_images"))
        assert theirs.targets == getattr(data, f"{split}_labels").tolist()
    assert theirs.classes == data.classes


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_batches_pickled_by_python_3_are_read_too(tmp_path, protocol):
    written = write_cifar(
        tmp_path / "mirror", "cifar10", pickled=lambda content: pickle.dumps(content, protocol)
    )
    written.check(prepared(tmp_path, "cifar10", written))


def set_data(files: dict, data: object, file: str = "data_batch_2") -> None:
    files[file]["data"] = data


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit",)


CASES = {
    "forbidden class": (
        lambda files: set_data(files, Hostile()),
        r"data_batch_2 is refused: it asks for (builtins|__builtin__)\.exec, .*: get it from its publisher",
    ),
    "wrong width": (
        lambda files: set_data(files, files["data_batch_2"]["data"][:, :-1]),
        r"data_batch_2: data is uint8 \(10, 3071\), expected uint8 \(n, 3072\): get the original",
    ),
    "wrong type": (
        lambda files: set_data(files, files["data_batch_2"]["data"].astype(np.int16)),
        r"data_batch_2: data is int16 \(10, 3072\), expected uint8",
    ),
    "no array": (lambda files: set_data(files, [1, 2]), r"data_batch_2: data is list, expected uint8"),
    "too few labels": (
        lambda files: files["data_batch_3"]["labels"].pop(),
        r"data_batch_3: 10 images but labels is int64 \(9,\), expected one number per image",
    ),
    "labels out of range": (
        lambda files: files["test_batch"]["labels"].__setitem__(0, 10),
        r"test_batch: labels go from \d to 10, expected 0 to 9",
    ),
    "labels that are no numbers": (
        lambda files: files["test_batch"].__setitem__("labels", ["x"] * 20),
        r"test_batch: 20 images but labels is <U1 \(20,\), expected one number per image",
    ),
    "no labels": (lambda files: files["test_batch"].pop("labels"), r"test_batch holds no 'labels'"),
    "a list": (lambda files: files.__setitem__("test_batch", [1]), r"test_batch holds no 'data'"),
    "a batch missing": (
        lambda files: files.pop("data_batch_4"),
        r"has no cifar-10-batches-py/data_batch_4: get the original archive",
    ),
    "other classes": (
        lambda files: files["batches.meta"]["label_names"].reverse(),
        r"batches\.meta names other classes than cifar10's: get the original",
    ),
    "a batch cut short": (
        lambda files: files.__setitem__("data_batch_1", python2_pickle(files["data_batch_1"])[:-99]),
        r"data_batch_1 is not a readable pickle, it is damaged or cut short",
    ),
}


@pytest.mark.reliability("bad-arrays", "pickles")
@pytest.mark.parametrize("case", CASES)
def test_bad_content_is_one_line(tmp_path, case):
    change, message = CASES[case]

    def spoil(files):
        change(files)

    written = write_cifar(tmp_path / "mirror", "cifar10", change=spoil)
    with pytest.raises(UserError, match=message) as caught:
        prepared(tmp_path, "cifar10", written)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.reliability("bad-tasks")
def test_class_without_images_is_reported_by_name(tmp_path):
    def drop_ships(files):
        batch = files["test_batch"]
        keep = np.array(batch["labels"]) != 8
        batch["data"], batch["labels"] = batch["data"][keep], np.array(batch["labels"])[keep].tolist()

    written = write_cifar(tmp_path / "mirror", "cifar10", change=drop_ships)
    with pytest.raises(UserError, match="has no test image of class ship: get the original"):
        prepared(tmp_path, "cifar10", written)


def test_synthetic_archive_has_the_originals_file_names():
    """The factory writes the file names of torchvision's lists."""
    from torchvision import datasets

    for name, kind in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        files, _ = cifar_files(name)
        listed = [file for file, _ in kind.train_list + kind.test_list]
        assert set(files) == {*listed, kind.meta["filename"]}


def test_cifar10_and_cifar100_share_no_class():
    first, second = (SOURCES.get(name)(None, Path("data")).content_ids() for name in NAMES)
    assert len(first) == 10
    assert len(second) == 100
    assert "cifar10:airplane" in first
    assert not first & second
