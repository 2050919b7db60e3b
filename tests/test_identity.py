"""The identity of a data set depends on its content, not on its location or mtimes."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archive_factory import mini_files, write_mini
from image_factory import encoded, fill, folder_source, picture, split_names
from PIL import Image

from sharc_core.common.errors import Missing, UserError
from sharc_core.datasets import SOURCES, contents, image_folder, open_prepared
from sharc_core.datasets.archives import Container
from sharc_core.grid.loading import load_grid
from sharc_core.stages.layout import Layout

NAMES = split_names(["a", "b"])


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "images", NAMES)


def packed(tree: Path, path: Path, top: str = "", method: int = zipfile.ZIP_STORED) -> Path:
    files = sorted(p for p in tree.rglob("*") if p.is_file())
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for file in files[::-1] if top else files:
                archive.write(file, f"{top}{file.relative_to(tree)}")
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
            for file in files[::-1] if top else files:
                archive.add(file, f"{top}{file.relative_to(tree)}")
    return path


def dated(path: Path, seconds: int) -> Path:
    for file in (path, *path.rglob("*")):
        os.utime(file, (seconds, seconds))
    return path


def identity(path: Path, data_dir: Path, is_checked: bool = True, **values) -> dict:
    source = folder_source(path, data_dir, **values)
    if is_checked:
        source.check()
    return source.identity()


@pytest.mark.reliability("same-images")
@pytest.mark.parametrize("is_checked", [True, False])
def test_copied_folder_has_the_same_identity(tree, tmp_path, is_checked):
    """The copy may be moved or linked, have other mtimes and skipped files, or use another data_dir."""
    before = identity(tree, tmp_path / "data", is_checked)
    assert set(before) == {"source", "settings", "content"}
    assert "path" not in before["settings"] and str(tmp_path) not in str(before)
    dated(tree, 1)
    assert identity(tree, tmp_path / "data", is_checked) == before
    copy = dated(Path(shutil.copytree(tree, tmp_path / "copy")), 10**9)
    fill(copy, ["train/a/.DS_Store", "notes.txt", "train/a/x.avif"])
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / "below").mkdir()
    shutil.move(tree, tmp_path / "below/one/folder")
    for path in (copy, tmp_path / "link", tmp_path / "below/one"):
        for data_dir in ("data", "other"):
            assert identity(path, tmp_path / data_dir, is_checked) == before


@pytest.mark.reliability("same-images")
@pytest.mark.parametrize("ending", ["zip", "tar", "tgz"])
@pytest.mark.parametrize("is_checked", [True, False])
def test_a_copy_of_an_archive_is_the_same_data(tree, tmp_path, ending, is_checked):
    """The archive is packed again in another order, with other mtimes, below a folder."""
    before = identity(packed(tree, tmp_path / f"a.{ending}"), tmp_path / "data", is_checked)
    dated(tree, 10**9)
    for name, top in (("b", ""), ("c", "top/"), ("d", "./")):
        path = packed(tree, tmp_path / f"{name}.{ending}", top, zipfile.ZIP_DEFLATED)
        assert identity(path, tmp_path / "data", is_checked) == before
    if ending != "zip":  # a zip uses its own checksums instead of a hash of the content
        assert before == identity(tree, tmp_path / "data")


def changes() -> dict:
    def replaced(tree):
        (tree / NAMES[0]).write_bytes(picture(99))

    def swapped(tree):
        one, other = (tree / name for name in NAMES[:2])
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)

    def same_size(tree):
        for number in range(100):
            (tree / NAMES[0]).write_bytes(encoded(Image.new("RGB", (6, 6), (number, 7, 7)), "BMP"))
        shutil.copy(tree / NAMES[0], tree / NAMES[1])

    return {
        "an image of other pixels": replaced,
        "one image more": lambda tree: (tree / "train/a/9.png").write_bytes(picture(9)),
        "one image less": lambda tree: (tree / "train/a/1.png").unlink(),
        "an image of another class": lambda tree: (tree / NAMES[0]).rename(tree / "train/b/9.png"),
        "an image of the other split": lambda tree: (tree / "train/a/1.png").rename(tree / "test/a/9.png"),
        "two images in another order": swapped,
        "another name of a class": lambda tree: [
            (tree / s / "a").rename(tree / s / "z") for s in ("train", "test")
        ],
        "a file of another kind": same_size,
        "another name of a file": lambda tree: (tree / NAMES[0]).rename(tree / "train/a/99.png"),
        "a class more": lambda tree: [fill(tree, [f"{s}/c/1.png"]) for s in ("train", "test")],
    }


@pytest.mark.reliability("changed-images")
@pytest.mark.parametrize("change", changes())
def test_changed_content_changes_the_identity(tree, tmp_path, change):
    """Test a folder and each kind of archive, with unchanged mtimes."""
    dated(tree, 10**9)
    paths = {"": tree} | {e: tmp_path / f"a.{e}" for e in ("zip", "tar", "tgz")}
    before = {e: identity(packed(tree, p) if e else p, tmp_path / "data") for e, p in paths.items()}
    changes()[change](tree)
    dated(tree, 10**9)
    for ending, path in paths.items():
        after = identity(packed(tree, path) if ending else path, tmp_path / "data")
        assert after["content"] != before[ending]["content"], ending


def test_settings_are_part_of_the_identity(tmp_path):
    tree = fill(tmp_path / "images", [f"{c}/{n}.png" for c in "ab" for n in range(4)])
    values = [{}, {"split_seed": 1}, {"test_fraction": 0.4}, {"size": 8}]
    found = [identity(tree, tmp_path / "data", **{"test_fraction": 0.5} | v) for v in values]
    assert len({str(one) for one in found}) == len(values)
    assert len({one["content"] for one in found}) == 1
    names = [n.replace("test/", "val/") for n in NAMES[4:]]
    tree = fill(tmp_path / "split", [*NAMES, *names])
    assert identity(tree, tmp_path / "data") != identity(tree, tmp_path / "data", test_split="val")


def test_images_are_read_only_once_for_the_identity(tree, tmp_path, monkeypatch):
    """Another source, another seed or a check do not read them again."""
    read, real = [], Container.read
    monkeypatch.setattr(Container, "read", lambda self, names: (read.extend(names), real(self, names))[1])
    identity(tree, tmp_path / "data")
    assert sorted(read) == sorted(NAMES)
    identity(tree, tmp_path / "data")
    identity(tree, tmp_path / "data", is_checked=False, size=8)
    assert len(read) == len(NAMES)
    bare = fill(tmp_path / "bare", [f"{c}/{n}.png" for c in "ab" for n in range(4)])
    for seed in range(3):
        identity(bare, tmp_path / "data", test_fraction=0.5, split_seed=seed)
    assert len(read) == len(NAMES) + 8
    read.clear()
    identity(packed(tree, tmp_path / "a.zip"), tmp_path / "data", is_checked=False)
    assert read == []  # a zip contains checksums


@pytest.mark.reliability("image-notes")
def test_a_data_dir_that_cannot_be_written_to_costs_time_only(tree, tmp_path, monkeypatch):
    expected = identity(tree, tmp_path / "data")
    (tmp_path / "file").write_text("")
    assert identity(tree, tmp_path / "file/data") == expected
    assert identity(tree, tmp_path / "file/data", is_checked=False) == expected

    def refusing(path, content):
        raise UserError(f"cannot write {path}: read-only file system")

    monkeypatch.setattr(contents, "write_json", refusing)
    source = folder_source(tree, tmp_path / "read-only")
    source.check()
    assert (source.side(), source.identity()) == (6, expected)
    assert not (tmp_path / "read-only").exists()
    source.prepare(tmp_path / "out")
    assert open_prepared(tmp_path / "out").manifest["content"] == expected["content"]


@pytest.mark.reliability("image-notes")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "\0",
        '{"sizes": null}',
        '{"sizes": {"6x6": 6}}',
        '{"sizes": 3, "content": "x"}',
        '{"sizes": {}, "content": "x"}',
        '{"sizes": {"6": 1}, "content": "x"}',
        '{"sizes": {"axb": 1}, "content": "x"}',
        '{"sizes": {"6x6": 6}, "content": 3, "frames": 0}',
        '{"sizes": {"6x6": 6}, "content": "x", "frames": [1]}',
    ],
)
def test_a_damaged_note_is_found_out_again(tree, tmp_path, text):
    expected = identity(tree, tmp_path / "data")
    (note,) = (tmp_path / "data/checked").iterdir()
    note.write_text(text)
    if '"content": "x"' not in text:
        assert identity(tree, tmp_path / "data", is_checked=False) == expected
        note.write_text(text)
    source = folder_source(tree, tmp_path / "data")
    assert (source.side(), source.identity()) == (6, expected)


def test_missing_images_have_an_identity_for_planning(tmp_path):
    """Pre-training on missing images can be planned; everything else needs the images."""
    source = folder_source(tmp_path / "gone", tmp_path / "data")
    assert source.identity()["content"] is None
    for action in (source.check, source.class_names, source.counts, lambda: source.prepare(tmp_path / "out")):
        with pytest.raises(Missing, match="gone does not exist: give a folder, a .zip or a .tar of images"):
            action()
    fill(tmp_path / "gone", NAMES)
    assert source.identity()["content"] is not None


@pytest.mark.reliability("images-changed-meanwhile")
def test_images_that_change_while_they_are_read_are_not_prepared(tree, tmp_path):
    for path in (tree, packed(tree, tmp_path / "a.zip"), packed(tree, tmp_path / "a.tar")):
        source = folder_source(path, tmp_path / "data")
        source.check()
        before = source.identity()
        (tree / NAMES[0]).write_bytes(picture(len(str(path)) + 50))
        if path != tree:
            packed(tree, path)
        with pytest.raises(UserError, match=r"was changed while it was read: run again$"):
            source.prepare(tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert identity(path, tmp_path / "data") != before


def test_a_check_of_another_version_is_made_again(tree, tmp_path, monkeypatch):
    identity(tree, tmp_path / "data")
    monkeypatch.setattr(image_folder, "CHECK", image_folder.CHECK + 1)
    monkeypatch.setattr(image_folder.ImageFolder, "_check_all", lambda *a: pytest.fail("checked again"))
    with pytest.raises(pytest.fail.Exception, match="checked again"):
        folder_source(tree, tmp_path / "data").check()


@pytest.mark.reliability("same-images")
def test_names_of_prepared_folders_and_features_follow_the_content(tree, tmp_path):
    """A new clone with a copied data_dir and copied images plans no work."""

    def paths(path: Path) -> list[str]:
        block = {"source": "image_folder", "path": str(path), "tasks": 2}
        backbone = {"arch": "resnet_small", "weights": "pretrain", "image_size": 32, "pretrain": {"dataset": {
            "source": "image_folder", "path": str(path)}}}  # fmt: skip
        grid = load_grid(
            {"datasets": {"mine": block}, "backbone": backbone, "data_dir": str(tmp_path / "data")}
        )
        layout = Layout(grid)
        name = next(iter(layout.backbones))
        return [str(layout.prepared("mine")), str(layout.weights(name)), str(layout.features("mine", name))]

    before = paths(tree)
    copy = dated(Path(shutil.copytree(tree, tmp_path / "copy")), 1)
    assert paths(copy) == before
    (copy / NAMES[0]).write_bytes(picture(77))
    assert not set(paths(copy)) & set(before)


@pytest.mark.reliability("same-images")
@pytest.mark.slow
def test_mini_imagenet_in_each_form(tmp_path):
    """A copy with other mtimes has the same identity; a copy with a changed file does not."""
    kind = SOURCES.get("mini_imagenet")

    def found(path: Path, data_dir: str = "data") -> dict:
        return kind(kind.Settings(path=str(path)), tmp_path / data_dir).identity()

    written, pictures = write_mini(tmp_path / "mini"), tmp_path / "pictures"
    for images, numbers in mini_files(3, 2)[0].values():
        for wnid, rows in numbers.items():
            (pictures / wnid).mkdir(parents=True)
            Image.fromarray(np.asarray(images[rows[0]])).save(pictures / wnid / "1.png", compress_level=1)
    archive = tmp_path / "pictures.zip"
    packed(pictures, archive)
    for path in (written.path, pictures, archive):
        before = found(path)
        assert "path" not in before["settings"]
        copy = tmp_path / "elsewhere" / f"copy of {path.name}"
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
        dated(copy, 1)
        assert found(copy) == found(copy, "other") == before
        if path.is_dir():
            file = next(f for f in sorted(copy.rglob("*")) if f.is_file())
            file.write_bytes(file.read_bytes() + b".")
            os.utime(file, (1, 1))
            assert found(copy) != before
