"""`source: features`: every format gives the same arrays, and bad input is one line before any job."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES
from sharc_core.datasets.feature_files import ARRAYS
from sharc_core.datasets.feature_source import open_labels
from sharc_core.features.cache import open_features
from sharc_core.features.own import write_features


def arrays(
    shape: tuple[int, ...] = (5,), dtype: str = "float32", names: bool = False
) -> dict[str, np.ndarray]:
    """Features of 12 training and 6 test samples of three classes."""
    draw, made = np.random.default_rng(0), {}
    for split, per_class in (("train", 4), ("test", 2)):
        labels = np.tile([2, 0, 1], per_class)
        made[f"{split}_features"] = (draw.normal(size=(len(labels), *shape)) * 8).astype(dtype)
        made[f"{split}_labels"] = np.array(["ant", "bee", "cat"])[labels] if names else labels
    return made


def save(path: Path, content: dict[str, np.ndarray]) -> Path:
    """Write arrays in the format of the path's ending; without one, a folder of .npy files."""
    if not path.suffix:
        path.mkdir()
        for name, array in content.items():
            np.save(path / f"{name}.npy", array)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(array) for name, array in content.items()}, path)
    elif path.suffix == ".pt":
        is_text = {name: array.dtype.kind == "U" for name, array in content.items()}
        torch.save({n: a.tolist() if is_text[n] else torch.tensor(a) for n, a in content.items()}, path)
    else:
        rows = {"split": [], "label": [], "features": []}
        for split in ("train", "test"):
            rows["split"] += [split] * len(content[f"{split}_labels"])
            rows["label"] += content[f"{split}_labels"].tolist()
            rows["features"] += content[f"{split}_features"].tolist()
        write_parquet(path, rows)
    return path


def write_parquet(path: Path, rows: dict[str, list]) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kinds = {"features": pyarrow.list_(pyarrow.float32())}
    table = pyarrow.table({n: pyarrow.array(v, kinds.get(n)) for n, v in rows.items()})
    parquet.write_table(table, path, row_group_size=5)
    return path


def opened(path: Path):
    kind = SOURCES.get("features")
    return kind(kind.Settings(path=str(path)), path.parent / "data")


def read(path: Path) -> dict[str, np.ndarray]:
    """What a source makes of a path: both splits' maps and labels, after a check."""
    source = opened(path)
    source.check()
    found = {f"{split}_labels": values for split, values in source.labels().items()}
    for split in ("train", "test"):
        found[f"{split}_features"] = np.concatenate(list(source.maps(split, 5)))
    return found


@pytest.mark.parametrize(
    ("ending", "names"),
    [
        *((ending, False) for ending in (".npz", ".safetensors", ".pt", ".parquet", "")),
        *((ending, True) for ending in (".npz", ".pt", ".parquet", "")),  # safetensors holds no texts
    ],
)
def test_every_format_gives_the_same_arrays(tmp_path, ending, names):
    content = arrays(names=names)
    found = read(save(tmp_path / f"mine{ending}", content))
    codes = {"ant": 0, "bee": 1, "cat": 2}
    for split in ("train", "test"):
        half = content[f"{split}_features"].astype(np.float16)
        assert np.array_equal(found[f"{split}_features"], half[:, :, None, None])
        expected = [codes.get(value, value) for value in content[f"{split}_labels"].tolist()]
        assert found[f"{split}_labels"].tolist() == expected


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pt", ".parquet"])
def test_a_folder_with_a_file_per_split(tmp_path, ending):
    content, folder = arrays(), tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "test"):
        part = {kind: content[f"{split}_{kind}"] for kind in ("features", "labels")}
        if ending == ".parquet":
            rows = {"features": part["features"].tolist(), "label": part["labels"].tolist()}
            write_parquet(folder / f"{split}.parquet", rows)
        else:
            save(folder / f"{split}{ending}", part)
    expected = read(save(tmp_path / "one.npz", content))
    found = read(folder)
    assert all(np.array_equal(found[name], expected[name]) for name in ARRAYS)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int16", "uint8", ">f4"])
@pytest.mark.parametrize("ending", [".npz", ""])
def test_maps_of_every_type_and_order(tmp_path, ending, dtype):
    content = arrays((3, 2, 4), dtype)
    content["train_features"] = np.asfortranarray(content["train_features"])
    path = save(tmp_path / f"mine{ending}", content)
    assert opened(path).map_shape() == (3, 2, 4)
    assert np.array_equal(read(path)["train_features"], content["train_features"].astype(np.float16))


def test_compressed_and_bfloat16_and_other_torch_forms(tmp_path):
    content = arrays()
    np.savez_compressed(tmp_path / "mine.npz", **content)
    tensors = {name: torch.tensor(array) for name, array in content.items()}
    tensors["train_features"] = tensors["train_features"].bfloat16()
    torch.save(tensors, tmp_path / "mine.pt", _use_new_zipfile_serialization=False)
    compressed, old = read(tmp_path / "mine.npz"), read(tmp_path / "mine.pt")
    assert np.array_equal(compressed["test_features"], old["test_features"])
    rounded = tensors["train_features"].half().numpy()
    assert np.array_equal(old["train_features"][:, :, 0, 0], rounded)


def test_the_folder_of_features_is_what_the_cache_writes(tmp_path):
    content = arrays((3, 2, 2))
    source = opened(save(tmp_path / "mine.npz", content))
    source.prepare(tmp_path / "prepared")
    prepared = open_labels(tmp_path / "prepared")
    assert prepared.manifest["counts"]["train_per_class"] == [4, 4, 4]
    write_features(source, tmp_path / "prepared", tmp_path / "view0")
    features = open_features(tmp_path / "view0", verify=True)
    assert features.classes == ["0", "1", "2"] and features.train_labels.tolist() == [2, 0, 1] * 4
    assert torch.equal(features.train_maps, torch.tensor(content["train_features"]).half())
    assert torch.equal(features.test_pooled, features.test_maps.float().mean((2, 3)))
    assert features.manifest["backbone"] == {"name": "own_features", "sha256": features.manifest["dataset"]}


def test_the_order_of_classes(tmp_path):
    """Integers by value, names by code point, or as class_names has them."""
    content = arrays() | {"train_labels": np.tile([30, 9, 11], 4), "test_labels": np.tile([30, 9, 11], 2)}
    assert opened(save(tmp_path / "numbers.npz", content)).class_names() == ["9", "11", "30"]
    named = arrays() | {"class_names": np.array(["b", "c", "a"])}
    assert opened(save(tmp_path / "named.npz", named)).class_names() == ["b", "c", "a"]
    named = arrays(names=True) | {"class_names": np.array(["cat", "ant", "bee"])}
    assert read(save(tmp_path / "texts", named))["train_labels"].tolist() == [0, 1, 2] * 4
    save_file(arrays(), tmp_path / "mine.safetensors", {"class_names": json.dumps(["b", "c", "a"])})
    assert opened(tmp_path / "mine.safetensors").class_names() == ["b", "c", "a"]


@pytest.mark.reliability("same-features")
def test_the_content_identifies_the_data(tmp_path):
    """A copy with another name and date is the same data; another value is not."""
    first = opened(save(tmp_path / "a.npz", arrays())).identity()
    save(tmp_path / "below.npz", arrays()).rename(tmp_path / "b.npz")
    assert opened(tmp_path / "b.npz").identity() == first and "a.npz" not in str(first)
    changed = arrays()
    changed["test_features"][0, 0] += 1
    assert opened(save(tmp_path / "c.npz", changed)).identity() != first


@pytest.mark.reliability("same-features")
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = save(tmp_path / "mine.npz", arrays())
    source = opened(path)
    source.check()
    save(path, arrays(dtype="float64"))
    with pytest.raises(UserError, match=r"mine\.npz was changed while it was read: run again"):
        list(source.maps("train", 5))
    with pytest.raises(UserError, match="was changed while it was read"):
        source.labels()
    assert opened(path).map_shape() == (5, 1, 1), "a new source reads it again"


@pytest.mark.reliability("image-notes")
@pytest.mark.parametrize("damage", ["", '{"classes": 3}', '{"classes": [], "counts": [], "shape": null}'])
def test_a_damaged_result_of_the_check_is_made_again(tmp_path, damage):
    path = save(tmp_path / "mine.npz", arrays())
    opened(path).check()
    (note,) = (tmp_path / "data/checked").glob("*.json")
    note.write_text(damage)
    assert opened(path).class_names() == ["0", "1", "2"]


def wrong(**values) -> dict[str, np.ndarray]:
    """The arrays with some changed; None removes one."""
    return {name: array for name, array in (arrays() | values).items() if array is not None}


def holding(value: float) -> np.ndarray:
    features = arrays()["train_features"].astype("float64")
    features[7, 1] = value
    return features


ROWS = np.tile([2, 0, 1], 4)


@pytest.mark.reliability("bad-features")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            wrong(test_labels=None, y=ROWS),
            r"has no array 'test_labels'; it has: .*y: name the arrays train_fea",
        ),
        (wrong(test_features=np.zeros((6, 4))), r"has 5 numbers per sample and .*has 4 numbers: both splits"),
        (
            wrong(train_features=holding(np.nan)),
            r"sample 7 \(counted from 0\) has the value nan, which is not",
        ),
        (wrong(train_features=holding(-np.inf)), "has the value -inf, which is not finite"),
        (wrong(train_features=holding(7e4)), "has the value 70000, and float16 holds at most 65504: scale"),
        (wrong(train_labels=ROWS - 1), "has the label -1: labels start at 0"),
        (wrong(train_labels=ROWS.astype(float)), "has type float64: labels are integers from 0 on, or names"),
        (wrong(train_labels=ROWS.astype(bool)), "has type bool: labels are"),
        (wrong(train_labels=np.eye(3, dtype=int)[ROWS]), r"has shape \(12, 3\): give one label per sample"),
        (wrong(train_labels=ROWS[:9]), "has 9 labels for 12 samples"),
        (wrong(train_labels=ROWS % 2), "train_labels has no sample of class '2': every class needs some"),
        (wrong(test_labels=np.zeros(6, int)), "test_labels has no sample of class '1'"),
        (wrong(class_names=np.array(["a", "b"])), "has the label 2, which is none of the 2 names of classes"),
        (wrong(class_names=np.array(list("abcd"))), "has no sample of class 'd'"),
        (wrong(class_names=np.array(["a", "b", "a"])), "'a' is the name of two classes"),
        (wrong(class_names=np.arange(3)), "class_names: must be a list of texts"),
        (wrong(train_labels=np.array(list("cab") * 4)), "integers in one split and names in the other"),
        (wrong(train_features=np.zeros((12, 5), object)), "holds Python objects, which only unpickling"),
        (wrong(train_features=np.zeros((12, 5), complex)), "has type complex128: features are float16"),
        (wrong(train_features=np.zeros((12, 5, 2))), r"shape \(12, 5, 2\): give vectors \(N, D\) or maps"),
        (wrong(train_features=np.zeros((0, 5))), r"is empty, its shape is \(0, 5\)"),
        (wrong(train_features=np.zeros((12, 2**15), "i1")), "has 32,768 channels per sample: at most 32,767"),
        (wrong(train_features=np.zeros(12)), r"shape \(12,\): give vectors"),
    ],
)
def test_bad_arrays_are_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        opened(save(tmp_path / "mine.npz", content)).check()
    assert "\n" not in str(error.value) and str(tmp_path / "mine.npz") in str(error.value)


class Harmful:
    """Its unpickling would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.reliability("bad-features")
def test_files_are_never_unpickled(tmp_path):
    for name, is_zip in (("new", True), ("old", False)):
        content = {"train_features": Harmful(tmp_path / "harm")}
        torch.save(content, tmp_path / f"{name}.pt", _use_new_zipfile_serialization=is_zip)
        with pytest.raises(UserError, match="reading it could run code: save a dict of tensors only"):
            opened(tmp_path / f"{name}.pt").check()
    for number, values in enumerate((np.array([Harmful(tmp_path / "harm")] * 12), {"a": 1})):
        np.savez(tmp_path / f"{number}.npz", **arrays() | {"train_features": values})
        with pytest.raises(UserError, match="holds Python objects"):
            opened(tmp_path / f"{number}.npz").check()
    assert not (tmp_path / "harm").exists()


@pytest.mark.reliability("bad-features")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor: save a dict of tensors"),
        ({"train_features": [[1.0], [1.0, 2.0]]}, "lists of different lengths"),
        ({"train_features": [torch.zeros(2), torch.zeros(3)]}, "torch.stack or torch.cat"),
        ({"train_features": torch.eye(3).to_sparse()}, r"is a torch.sparse_coo: save a dense tensor"),
        ({"train_features": {"a": 1}}, "is a dict: save a dense tensor or a list"),
    ],
)
def test_bad_torch_files_are_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "mine.pt").check()


@pytest.mark.reliability("bad-features")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"label": [0, 1], "split": ["train", "test"]}, "has no column 'features'; it has: label, split"),
        (
            {"features": [[1.0], [1.0, 2.0]], "label": [0, 0], "split": ["train"] * 2},
            "row 1 of the split has 2",
        ),
        ({"features": [[1.0], None], "label": [0, 0], "split": ["train"] * 2}, "has a row without features"),
        ({"features": [[1.0, None]], "label": [0], "split": ["train"]}, "a list with a missing number"),
        ({"features": [[1.0]], "label": [0], "split": ["dev"]}, "column split has the value 'dev'"),
        ({"features": [[1.0]], "label": [None], "split": ["train"]}, "labels are integers or names"),
        ({"features": [[1.0]], "label": [0]}, r"has no array 'train_features'; it has: features, labels"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, rows, message):
    path = write_parquet(tmp_path / "mine.parquet", rows)

    def read_training() -> None:
        source = opened(path)
        list(source.files.array("train", "features").rows(10))
        source.files.array("train", "labels")

    with pytest.raises(UserError, match=message):
        read_training()


@pytest.mark.reliability("bad-features")
def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = save(tmp_path / "mine.parquet", arrays())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(
        UserError, match=r"need pyarrow.*: pip install pyarrow \(the extra `parquet`\), or save"
    ):
        opened(path).check()


@pytest.mark.reliability("bad-features")
def test_bad_paths_are_one_line(tmp_path):
    def refused(path: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            opened(path).check()
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    refused(tmp_path / "none.npz", "does not exist: give a .npz, .safetensors, .pt")
    for name in ("mine.h5", "mine.npy"):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, "is not a format that is read: give a .npz")
    for name in ("mine.npz", "mine.pt", "mine.safetensors", "mine.parquet"):
        (tmp_path / name).write_bytes(b"no such format")
        refused(tmp_path / name, "cannot be read, it is corrupt or cut short|reading it could run code")
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(folder, "lacks one that would be the train split; it has: nothing")
    np.save(folder / "train_features.npy", np.zeros((2, 2)))
    refused(folder, r"lacks train_labels.npy; it has: train_features.npy")
    both = tmp_path / "both"
    both.mkdir()
    for name in ("train.npz", "train.pt"):
        (both / name).write_bytes(b"")
    refused(both, r"has train.npz and train.pt, which would be the train split")


@pytest.mark.reliability("bad-features")
def test_a_file_cut_short_is_one_line(tmp_path):
    folder = save(tmp_path / "folder", arrays())
    file = folder / "train_features.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"train_features.npy is cut short: get the file again"):
        opened(folder).check()
    path = save(tmp_path / "mine.npz", arrays())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("train_features.npy").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 400] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"mine.npz cannot be read, it is corrupt"):
        opened(path).check()
