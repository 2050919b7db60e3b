"""Data sources: round trips, determinism, and one-line errors for bad input."""

import errno
import io
import json
import re
import shutil
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES, open_prepared, pictures
from sharc_core.datasets.archives import Container, natural
from sharc_core.datasets.digits import FEWEST, IMAGES
from sharc_core.datasets.glyph_pool import faces_of, pool
from sharc_core.datasets.glyphs import render_class
from sharc_core.datasets.turned_glyphs import distinct_when_turned


def source(name: str, folder: Path, **values):
    kind = SOURCES.get(name)
    return kind(kind.Settings(**values), folder / "data")


def image_bytes(seed: int, size: tuple[int, int] = (10, 10), mode: str = "RGB", kind: str = "png") -> bytes:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def tree(tmp_path) -> Path:
    """Write train and test images of three classes, 10 x 10 pixels; names need natural sorting."""
    root = tmp_path / "pictures"
    for s, split in enumerate(("train", "test")):
        for c, name in enumerate(("c1", "c2", "c10")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(3 if split == "train" else 2):
                (folder / f"{i + 9}.png").write_bytes(image_bytes(100 * s + 10 * c + i))
    return root


def packed(tree: Path, ending: str, top: str = "") -> Path:
    """Pack the tree into an archive, below the folder `top` if given."""
    path = tree.parent / f"packed{ending}"
    files = sorted(p for p in tree.rglob("*") if p.is_file())
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, top + file.relative_to(tree).as_posix())
    else:
        with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w") as archive:
            for file in files[::-1]:  # not in the order of names
                archive.add(file, top + file.relative_to(tree).as_posix())
    return path


def arrays(folder: Path) -> list[bytes]:
    data = open_prepared(folder, verify=True)
    return [
        np.asarray(a).tobytes()
        for a in (data.train_images, data.train_labels, data.test_images, data.test_labels)
    ]


# --- the sources that make their images ------------------------------------------------------------


def test_digits_are_reproducible_and_have_the_expected_shapes(tmp_path):
    digits = source("digits", tmp_path)
    digits.prepare(tmp_path / "a")
    digits.prepare(tmp_path / "b")
    assert arrays(tmp_path / "a") == arrays(tmp_path / "b")
    data = open_prepared(tmp_path / "a")
    assert data.train_images.shape == (1347, 32, 32, 3)
    assert data.test_images.shape == (450, 32, 32, 3)
    assert data.classes == [str(d) for d in range(10)]
    assert min(data.manifest["counts"]["test_per_class"]) >= 43
    assert np.ptp(data.train_images) == 255
    assert isinstance(data.train_images, np.memmap)
    assert not data.train_images.flags.writeable


@pytest.mark.parametrize("fraction", [0.0001, 0.005, 0.995, 0.9999])
def test_digits_without_images_of_a_class_are_refused(tmp_path, fraction):
    digits = source("digits", tmp_path, test_fraction=fraction)
    message = rf"test_fraction {fraction} leaves a class without .*: choose one from 0\.006 to 0\.994$"
    for refusing in (digits.check, lambda: digits.prepare(tmp_path / "out")):
        with pytest.raises(UserError, match=message) as caught:
            refusing()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fraction", [0.006, 0.25, 0.994])
def test_fractions_that_the_digits_error_names_are_valid(tmp_path, fraction):
    for seed in range(5):
        source("digits", tmp_path, test_fraction=fraction, seed=seed).check()


@pytest.mark.parametrize("fraction", [0.005, 0.0058, 0.006, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.99, 0.9942, 0.995])
def test_predicted_digits_counts_equal_the_split(tmp_path, fraction):
    digits = source("digits", tmp_path, test_fraction=fraction)
    grey, labels = load_digits(return_X_y=True)
    assert len(grey) == IMAGES and np.bincount(labels).min() == FEWEST
    try:
        split = {name: labels[rows] for name, rows in digits._split(labels).items()}
    except UserError:
        with pytest.raises(UserError, match="leaves a class without"):
            digits.counts()
    else:
        assert digits.counts() == {name: len(chosen) for name, chosen in split.items()}


def test_glyphs_are_deterministic_whatever_the_workers(tmp_path):
    few = {"classes": 6, "train_per_class": 5, "test_per_class": 2}
    source("glyphs", tmp_path, **few).prepare(tmp_path / "a", workers=1)
    source("glyphs", tmp_path, **few).prepare(tmp_path / "b", workers=2)
    assert arrays(tmp_path / "a") == arrays(tmp_path / "b")
    source("glyphs", tmp_path, **few, seed=1).prepare(tmp_path / "c", workers=1)
    assert arrays(tmp_path / "a")[0] != arrays(tmp_path / "c")[0]
    data = open_prepared(tmp_path / "a")
    assert data.train_labels.tolist() == np.arange(6).repeat(5).tolist()
    assert data.manifest["classes"][0].startswith("U+")


@given(first=st.integers(0, 50), count=st.integers(1, 4), index=st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_glyph_does_not_depend_on_the_requested_range(first, count, index):
    """More classes or images do not change the existing ones."""
    point = pool()[first]
    more = render_class(("train", 0, point, index + count, 7, 32))
    fewer = render_class(("train", 5, point, index + 1, 7, 32))
    assert np.array_equal(more[: index + 1], fewer)
    assert not np.array_equal(fewer[index], render_class(("test", 0, point, index + 1, 7, 32))[index])


def test_the_pool_holds_no_character_twice_and_enough():
    assert len(pool()) == len(set(pool())) > 1500
    text = set(map(chr, pool()))
    for likes in ("AΑА", "BΒВ", "oοоOΟО", "cсCС", "xхXХ"):
        assert len(text & set(likes)) <= 1, likes
    assert all(len(faces_of()[point]) > 1 for point in pool())


def test_glyph_samples_vary_and_show_something():
    images = render_class(("train", 0, ord("R"), 60, 0, 32)).astype(float)
    assert np.ptp(images.mean((1, 2, 3))) > 40, "brightness"
    assert (images.std((1, 2)).max(1) > 8).all(), "no blank image"
    assert len({i.tobytes() for i in images}) == 60


def test_ranges_of_glyphs_do_not_overlap(tmp_path):
    first = source("glyphs", tmp_path, classes=30, digits=False).content_ids()
    second = source("glyphs", tmp_path, classes=30, first_class=30, digits=False).content_ids()
    assert len(first) == len(second) == 30
    assert not first & second


def test_glyphs_without_digits_are_the_others_in_order(tmp_path):
    """Exactly the characters that represent a digit are excluded: plain, raised, circled, of any script."""
    everything = source("glyphs", tmp_path, classes=len(pool()))
    others = source("glyphs", tmp_path, classes=1900, digits=False)
    assert others.points() == [p for p in pool() if unicodedata.digit(chr(p), None) is None][:1900]
    gone = "".join(map(chr, set(everything.points()[:1900]) - set(others.points())))
    assert set("089²⁷①➃٤۶") <= set(gone) and all(character.isdigit() for character in gone)
    left = sum(unicodedata.digit(chr(p), None) is None for p in pool())
    with pytest.raises(UserError, match=f"the fonts hold {left} distinct characters"):
        source("glyphs", tmp_path, classes=len(pool()), digits=False).check()


def test_a_character_that_stands_for_a_digit_is_that_digit_too(tmp_path):
    """Each has the id of the plain digit, which handwritten digits have too."""
    handwritten = source("digits", tmp_path).content_ids()
    assert handwritten == {f"glyph:U+003{digit}" for digit in range(10)}
    for character, plain in {"8": "8", "²": "2", "⑤": "5", "٩": "9", "⁰": "0"}.items():
        first = pool().index(ord(character))
        found = source("glyphs", tmp_path, classes=2, first_class=first).content_ids()
        assert {f"glyph:U+{ord(character):04X}", f"glyph:U+{ord(plain):04X}"} <= found
        assert f"glyph:U+{ord(plain):04X}" in found & handwritten
    assert not handwritten & source("glyphs", tmp_path, classes=1900, digits=False).content_ids()


def test_more_glyphs_than_the_fonts_hold(tmp_path):
    with pytest.raises(UserError, match=rf"the fonts hold {len(pool())} distinct characters: lower classes"):
        source("glyphs", tmp_path, classes=5000).check()


def test_turned_characters_are_further_classes(tmp_path):
    few = {"characters": 5, "digits": False, "train_per_class": 3, "test_per_class": 2}
    upright = source("glyphs", tmp_path, classes=5, digits=False)
    turned = [point for point in upright.points() if point in distinct_when_turned()]
    made = source("turned_glyphs", tmp_path, classes=5 + len(turned), **few)
    assert turned and made.points() == upright.points() + turned
    assert len(set(made.class_names())) == len(made.class_names()) == made.settings.classes
    assert made.content_ids() == upright.content_ids(), "a network must not know the character upright"
    made.prepare(tmp_path / "a")
    data = open_prepared(tmp_path / "a")
    assert data.train_labels.tolist() == np.arange(made.settings.classes).repeat(3).tolist()
    for label, seed, turns in ((0, 0, 0), (5, 1, 1)):
        drawn = render_class(("train", label, made.points()[label], 3, seed, 32))
        stored = data.train_images[3 * label : 3 * label + 3]
        assert np.array_equal(stored, np.rot90(drawn, turns, axes=(1, 2)))
    with pytest.raises(UserError, match=f"make {5 + len(turned)} classes, fewer than 99: raise characters"):
        source("turned_glyphs", tmp_path, classes=99, **few).check()
    with pytest.raises(UserError, match="distinct ones: lower characters or first_class"):
        source("turned_glyphs", tmp_path, classes=99, characters=5000).check()


def test_characters_that_look_the_same_when_turned_are_no_further_class():
    """O, X and + are their own look-alikes, N and Z each other's; K and M have none."""
    left_out = {ord(character) for character in "OX+NZ"}
    assert left_out <= set(pool()) and not left_out & distinct_when_turned()
    assert {ord("K"), ord("M")} <= distinct_when_turned() <= set(pool())
    assert len(distinct_when_turned()) > 500


# --- image_folder ----------------------------------------------------------------------------------


def test_folder_and_archives_give_equal_arrays(tree, tmp_path):
    found = {}
    for ending, top in ((None, ""), (".zip", ""), (".tar", ""), (".tar.gz", "some_set/"), (".tgz", "./")):
        path = tree if ending is None else packed(tree, ending, top)
        images = source("image_folder", tmp_path, path=str(path))
        images.check()
        assert images.class_names() == ["c1", "c2", "c10"]
        images.prepare(tmp_path / "out")
        found[str(ending)] = arrays(tmp_path / "out")
    assert all(a == found["None"] for a in found.values())
    data = open_prepared(tmp_path / "out")
    assert data.train_labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert np.array_equal(data.train_images[3], np.asarray(Image.open(tree / "train/c2/9.png")))
    assert np.array_equal(data.train_images[4], np.asarray(Image.open(tree / "train/c2/10.png")))


def test_images_of_different_sizes_are_fitted(tree, tmp_path):
    (tree / "train/c1/9.png").write_bytes(image_bytes(1, (40, 20)))
    images = source("image_folder", tmp_path, path=str(tree))
    images.prepare(tmp_path / "out")
    assert open_prepared(tmp_path / "out").train_images.shape[1:] == (224, 224, 3)
    images = source("image_folder", tmp_path, path=str(tree), size=16)
    images.prepare(tmp_path / "out")
    assert open_prepared(tmp_path / "out").train_images.shape[1:] == (16, 16, 3)


def test_centre_is_cut_out_of_the_longer_side(tree, tmp_path):
    striped = np.zeros((10, 30, 3), np.uint8)
    striped[:, 10:20] = 255
    Image.fromarray(striped).save(tree / "train/c1/9.png")
    source("image_folder", tmp_path, path=str(tree), size=10).prepare(tmp_path / "out")
    assert (open_prepared(tmp_path / "out").train_images[0] == 255).all()


def test_the_side_is_bounded(tree, tmp_path, monkeypatch):
    source("image_folder", tmp_path, path=str(tree), size=4096)
    with pytest.raises(ValidationError, match="less than or equal to 4096"):
        source("image_folder", tmp_path, path=str(tree), size=4097)
    monkeypatch.setattr("sharc_core.datasets.image_folder.SIDE_LIMIT", 9)
    images = source("image_folder", tmp_path, path=str(tree))
    for _ in range(2):  # the second time the check is cached
        with pytest.raises(UserError, match="all images are 10 x 10 pixels, .*: set size, 9 at most"):
            images.check()
    source("image_folder", tmp_path, path=str(tree), size=8).check()


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "png"), ("RGBA", "png"), ("P", "gif"), ("1", "png"), ("CMYK", "jpeg")]
)
def test_every_mode_becomes_rgb(tree, tmp_path, mode, kind):
    (tree / "train/c1/9.png").write_bytes(image_bytes(3, mode=mode, kind=kind))
    source("image_folder", tmp_path, path=str(tree)).prepare(tmp_path / "out")
    assert open_prepared(tmp_path / "out").train_images[0].any()


def test_sixteen_bit_grey_keeps_its_range(tree, tmp_path):
    levels = np.linspace(0, 65535, 100).reshape(10, 10).astype(np.uint16)
    Image.fromarray(levels).save(tree / "train/c1/9.png")
    source("image_folder", tmp_path, path=str(tree)).prepare(tmp_path / "out")
    image = open_prepared(tmp_path / "out").train_images[0]
    assert image.min() == 0
    assert image.max() == 255


def test_hidden_files_are_no_images(tree, tmp_path):
    (tree / "train/c1/._9.png").write_bytes(b"resource fork")
    (tree / "__MACOSX/train/c1").mkdir(parents=True)
    (tree / "__MACOSX/train/c1/9.png").write_bytes(b"junk")
    (tree / "train/c1/notes.txt").write_text("not an image")
    images = source("image_folder", tmp_path, path=str(tree))
    images.check()
    assert len(images.index()["train"]["c1"]) == 3


def said_of(tree: Path, tmp_path: Path) -> list[str]:
    said = []
    source("image_folder", tmp_path, path=str(tree)).check(said.append)
    return said


@pytest.mark.reliability("files-left-out")
def test_files_that_are_left_out_are_counted(tree, tmp_path):
    (tree / "train/c1/sub").mkdir()
    for name in ("train/c1/sub/1.png", "train/c2/1.heic", "test/c2/1.AVIF", "train/1.png"):
        (tree / name).write_bytes(image_bytes(1))
    expected = r"\(expected <train\|test>/<class>/<image> with an extension of \.jpg, .*\.tiff\)$"
    for path in (tree, packed(tree, ".zip"), packed(tree, ".tar", "top/")):
        for _ in range(2):  # the second time the check is cached
            (line,) = said_of(path, tmp_path)
            assert line.startswith(f"{path}: 4 files were left out, e.g. ")
            assert re.search(r"e\.g\. (top/)?test/c2/1\.AVIF " + expected, line)
    images = source("image_folder", tmp_path, path=str(tree))
    assert sum(map(len, images.index()["train"].values())) == 9
    for name in ("train/c2/1.heic", "test/c2/1.AVIF", "train/1.png"):
        (tree / name).unlink()
    assert "1 file was left out, e.g. train/c1/sub/1.png (" in said_of(tree, tmp_path)[0]


def test_side_files_outside_the_splits_are_silent(tree, tmp_path):
    (tree / "extras").mkdir()
    for name in ("README.txt", "Thumbs.db", "labels.csv", "extras/cover.png"):
        (tree / name).write_bytes(image_bytes(1))
    assert said_of(tree, tmp_path) == []


def test_jfif_is_an_image(tree, tmp_path):
    (tree / "train/c1/1.JFIF").write_bytes(image_bytes(1, kind="jpeg"))
    assert said_of(tree, tmp_path) == []
    images = source("image_folder", tmp_path, path=str(tree))
    assert images.index()["train"]["c1"][0] == "train/c1/1.JFIF"


def test_class_named_like_a_split_is_read_as_a_class(tree, tmp_path):
    for split in ("train", "test"):
        (tree / split / "test/sub").mkdir(parents=True)
        for name in ("1.png", "sub/2.png"):
            (tree / split / "test" / name).write_bytes(image_bytes(1))
    (line,) = said_of(tree, tmp_path)
    assert "2 files were left out, e.g. test/test/sub/2.png" in line
    images = source("image_folder", tmp_path, path=str(tree))
    assert images.index()["test"]["test"] == ["test/test/1.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_of_a_repeated_name_the_last_member_counts(tree, tmp_path, ending):
    first, last = image_bytes(1), image_bytes(2)
    (tree / "train/c1/9.png").write_bytes(last)
    source("image_folder", tmp_path, path=str(tree)).prepare(tmp_path / "folder")
    members = [("train/c1/9.png", first)]
    members += [(p.relative_to(tree).as_posix(), p.read_bytes()) for p in tree.rglob("*.png")]
    members += [("./train/c1/9.png", first), ("train/c1/9.png", first), ("train/c1/9.png", last)]
    path = tree.parent / f"repeated{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if ending.endswith("gz") else "w") as archive:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    container = Container(path)
    assert container.names().count("train/c1/9.png") == 1
    assert list(container.read(["train/c1/9.png"])) == [("train/c1/9.png", last)]
    images = source("image_folder", tmp_path, path=str(path))
    images.check()
    images.prepare(tmp_path / "out")
    assert arrays(tmp_path / "out") == arrays(tmp_path / "folder")


def test_a_tar_member_that_a_link_replaced_is_gone(tree):
    path = packed(tree, ".tar")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("train/c1/9.png")
        link.type, link.linkname = tarfile.SYMTYPE, "10.png"
        archive.addfile(link)
    assert "train/c1/9.png" not in Container(path).names()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: [*found[:-1], found[0]], r"train/c1/9\.png was read twice: repack the files"),
        (lambda found: found[1:], r"train/c1/9\.png is gone: the files changed .*, run again"),
    ],
)
def test_every_row_is_written_exactly_once(tree, tmp_path, monkeypatch, change, message):
    images = source("image_folder", tmp_path, path=str(tree))
    images.check()
    real = Container.read
    monkeypatch.setattr(Container, "read", lambda *a: iter(change(list(real(*a)))))
    with pytest.raises(UserError, match=message):
        images.prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_fingerprint_is_taken_once_per_source(tree, tmp_path, monkeypatch):
    taken, real = [], Container.fingerprint
    monkeypatch.setattr(Container, "fingerprint", lambda self: (taken.append(self), real(self))[1])
    images = source("image_folder", tmp_path, path=str(tree))
    before = images.identity()
    images.check()
    images.prepare(tmp_path / "out")
    assert images.identity() == before
    assert len(taken) == 1
    (tree / "train/c1/12.png").write_bytes(image_bytes(7))
    assert source("image_folder", tmp_path, path=str(tree)).identity() != before


def test_long_check_reports_progress(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("sharc_core.datasets.image_folder.SECONDS_BETWEEN_LINES", 0)
    said = []
    source("image_folder", tmp_path, path=str(tree)).check(said.append)
    assert said[0].startswith("checked 1 of 15 images of ")
    assert said[-1].endswith(", 0 s left")


@pytest.mark.reliability("bad-images")
def test_the_check_is_remembered_until_a_file_changes(tree, tmp_path, monkeypatch):
    images = source("image_folder", tmp_path, path=str(tree))
    images.check()
    monkeypatch.setattr(type(images), "_check_all", lambda *a: pytest.fail("checked again"))
    source("image_folder", tmp_path, path=str(tree)).check()
    monkeypatch.undo()
    (tree / "train/c1/9.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UserError, match=r"train/c1/9\.png is not a readable image"):
        source("image_folder", tmp_path, path=str(tree)).check()


def broken(tree: Path, how: str) -> Path:
    """Make the input invalid in one way; return the path for the setting."""
    if how == "missing":
        return tree / "nowhere.zip"
    if how == "not an archive":
        path = tree.parent / "notes.txt"
        path.write_text("x")
        return path
    if how in ("zip cut short", "tar cut short"):
        path = packed(tree, ".zip" if how.startswith("zip") else ".tar.gz")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path
    if how == "zip with a flipped byte":
        path = packed(tree, ".zip")
        content = bytearray(path.read_bytes())
        content[content.find(b"IDAT") + 40] ^= 255
        path.write_bytes(content)
        return path
    if how == "no test folder":
        shutil.rmtree(tree / "test")
    if how == "class without test image":
        shutil.rmtree(tree / "test/c2")
    if how == "class without training image":
        shutil.rmtree(tree / "train/c10")
    if how in ("two roots", "root and one below"):
        for top in ("a", "b") if how == "two roots" else ("", "b"):
            shutil.copytree(tree, tree.parent / "several" / top, dirs_exist_ok=True)
        return packed(tree.parent / "several", ".zip")
    if how == "class of nested images":
        (tree / "train/c2/sub").mkdir()
        for file in (tree / "train/c2").glob("*.png"):
            file.rename(file.parent / "sub" / file.name)
    if how == "class of unknown extensions":
        for file in list(tree.glob("*/c10/*.png")):
            file.rename(file.with_suffix(".heic"))
        return packed(tree, ".tar", "top/")
    if how == "one class":
        for split in ("train", "test"):
            shutil.rmtree(tree / split / "c1")
            shutil.rmtree(tree / split / "c2")
    if how == "corrupt image":
        path = tree / "test/c2/10.png"
        path.write_bytes(path.read_bytes()[:60])
    return tree


@pytest.mark.reliability("bad-images", "bad-tasks")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"nowhere\.zip does not exist: give a folder, a \.zip or a \.tar"),
        ("not an archive", r"notes\.txt is neither a folder nor"),
        ("zip cut short", r"packed\.zip cannot be read, it is corrupt or cut short .*get it again"),
        ("tar cut short", r"packed\.tar\.gz cannot be read, it is corrupt or cut short"),
        ("zip with a flipped byte", r"packed\.zip: .*\.png is (corrupt|not a readable image)"),
        ("no test folder", r"has no test images: expected test/<class>/<image>"),
        ("class without test image", r"class 'c2' has no test image: add some or remove the class"),
        ("class without training image", r"class 'c10' has no train image"),
        ("two roots", r"packed\.zip holds several data sets, in a/ and in b/: keep one train/ and one test/"),
        ("root and one below", r"packed\.zip holds several data sets, in its top and in b/: keep one"),
        (
            "class of nested images",
            r"class folder train/c2 can be taken, e\.g\. train/c2/sub/9\.png: expected <",
        ),
        (
            "class of unknown extensions",
            r"folder top/test/c10 can be taken, e\.g\. .*9\.heic: .*; move or convert the files, or remove",
        ),
        ("one class", r"has only one class"),
        ("corrupt image", r"test/c2/10\.png is not a readable image .*replace or remove it"),
    ],
)
def test_bad_input_is_one_line(tree, tmp_path, how, message):
    path = broken(tree, how)
    with pytest.raises(UserError, match=message) as caught:
        source("image_folder", tmp_path, path=str(path)).check()
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("archive-bombs")
def test_bombs_are_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("sharc_core.datasets.pictures.PIXEL_LIMIT", 99)
    with pytest.raises(UserError, match="is 10 x 10 pixels: too large, refused"):
        source("image_folder", tmp_path, path=str(tree)).check()
    monkeypatch.setattr("sharc_core.datasets.archives.MEMBER_LIMIT", 20)
    for ending in (".zip", ".tar.gz"):
        with pytest.raises(UserError, match="too large for an image, refused"):
            source("image_folder", tmp_path, path=str(packed(tree, ending))).check()


def test_links_in_a_tar_are_not_followed(tree):
    path = packed(tree, ".tar")
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("train/c1/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "train/c1/link.png" not in Container(path).names()


def test_natural_order_sorts_numbers_by_value():
    assert sorted(["10", "9", "a10", "a9", "a"], key=natural) == ["9", "10", "a", "a9", "a10"]


# --- what all prepared folders share ---------------------------------------------------------------


def test_interrupted_preparation_leaves_nothing(tree, tmp_path, monkeypatch):
    images = source("image_folder", tmp_path, path=str(tree))
    images.check()
    calls = iter(range(4))
    real = pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda *a: (next(calls), real(*a))[1])
    with pytest.raises((StopIteration, RuntimeError)):
        images.prepare(tmp_path / "out")
    with pytest.raises(UserError, match="manifest.json is missing"):
        open_prepared(tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match="disk full while writing .*out: free some space"):
        source("digits", tmp_path).prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.reliability("damaged-inputs")
def test_damaged_folders_are_reported_by_name(tmp_path):
    source("digits", tmp_path).prepare(tmp_path / "out")
    path = tmp_path / "out/test_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"test_images\.npy was altered .*: delete the folder and run again"):
        open_prepared(tmp_path / "out")
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"test_images\.npy has [\d,]+ bytes instead of [\d,]+"):
        open_prepared(tmp_path / "out")
    (tmp_path / "out/manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json is damaged \('files' is missing\)"):
        open_prepared(tmp_path / "out")


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_source_refuses_unknown_settings(name):
    with pytest.raises(ValidationError, match="extra_forbidden|Extra inputs"):
        SOURCES.get(name).Settings(nonsense=1)


@pytest.mark.parametrize(
    ("name", "values"),
    [("digits", {}), ("glyphs", {"classes": 3, "train_per_class": 2, "test_per_class": 1})],
)
def test_manifest_describes_the_prepared_data(tmp_path, name, values):
    made = source(name, tmp_path, **values)
    made.prepare(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["source"] == name
    assert manifest["settings"] == made.settings.model_dump()
    assert manifest["counts"]["train"] == sum(manifest["counts"]["train_per_class"])
    assert all(len(entry["sha256"]) == 64 for entry in manifest["files"].values())
    assert set(manifest["content_ids"]) == made.content_ids()
