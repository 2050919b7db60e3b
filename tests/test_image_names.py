"""Which files are images and which are skipped: names of any system and script, links, hidden files."""

import io
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_factory import encoded, fill, folder_source, picture, split_names
from PIL import Image

from sharc_core.common.errors import UserError
from sharc_core.datasets import archives, open_prepared
from sharc_core.datasets.archives import natural

IMAGE = picture()


def counted(path: Path, tmp_path: Path, **values) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Return the number of images by split and class, and the lines of the check without the path."""
    said = []
    source = folder_source(path, tmp_path / "data", **values)
    source.check(said.append)
    index = {split: {n: len(files) for n, files in c.items()} for split, c in source.index().items()}
    assert all(line.startswith(f"{path}: ") for line in said)
    return index, [line.removeprefix(f"{path}: ") for line in said]


def refused(path: Path, tmp_path: Path, message: str, **values) -> None:
    with pytest.raises(UserError, match=message) as caught:
        counted(path, tmp_path, **values)
    assert "\n" not in str(caught.value)


def both(classes: dict[str, int]) -> dict[str, dict[str, int]]:
    return {"train": classes, "test": classes}


@pytest.fixture
def tree(tmp_path) -> Path:
    return fill(tmp_path / "images", split_names(["a", "b"], 1, 1))


# --- links -----------------------------------------------------------------------------------------


def test_linked_folders_and_files_are_read(tree, tmp_path):
    """Links to classes, splits, the data set, images and other links are followed, as in torchvision."""
    store = fill(tmp_path / "store", [f"{i}/{n}.png" for i in range(6) for n in range(2)])
    for split in ("train", "test"):
        (tree / split / "linked").symlink_to(store / "0")
        (tree / split / "relative").symlink_to(Path("../../store/1"))
        (tree / split / "twice").symlink_to(tree / split / "linked")
        (tree / split / "files").mkdir()
        (tree / split / "files/x.png").symlink_to(store / "2/0.png")
        (tree / split / "files/y.png").symlink_to(tree / split / "files/x.png")
        os.link(store / "3/0.png", tree / split / "files/hard.png")
    expected = {"a": 1, "b": 1, "files": 3, "linked": 2, "relative": 2, "twice": 2}
    assert counted(tree, tmp_path) == (both(expected), [])
    moved = tmp_path / "moved"
    moved.mkdir()
    for split in ("train", "test"):
        (moved / split).symlink_to(tree / split)
    (tmp_path / "whole").symlink_to(moved)
    assert counted(tmp_path / "whole", tmp_path) == (both(expected), [])
    source = folder_source(tmp_path / "whole", tmp_path / "data")
    source.prepare(tmp_path / "out")
    direct = folder_source(tree, tmp_path / "data")
    assert source.identity() == direct.identity()
    assert open_prepared(tmp_path / "out").classes == list(expected)


@pytest.mark.reliability("links")
def test_cyclic_links_are_skipped(tree, tmp_path):
    (tree / "train/a/up").symlink_to("..")
    (tree / "train/b/self").symlink_to("self")
    (tree / "test/a/top").symlink_to(tree)
    index, said = counted(tree, tmp_path)
    assert index == both({"a": 1, "b": 1})
    assert "2 files were left out, e.g. test/a/top (a link to one of its parent folders)" in said
    assert "1 file was left out, e.g. train/b/self (a broken link)" in said


@pytest.mark.reliability("links")
def test_links_between_two_folders_end(tree, tmp_path):
    (tree / "train/a/other").symlink_to(tree / "train/b")
    (tree / "train/b/other").symlink_to(tree / "train/a")
    index, said = counted(tree, tmp_path)
    assert index == both({"a": 1, "b": 1})
    assert any("train/a/other/other (a link to one of its parent folders)" in line for line in said)


@pytest.mark.reliability("links")
def test_links_that_multiply_are_stopped(tree, tmp_path, monkeypatch):
    """Twenty folders with two links each to the next one give a million paths."""
    monkeypatch.setattr(archives, "COUNT_LIMIT", 1000)
    for number in range(20):
        place = tree / f"train/a/{number}"
        place.mkdir()
        for name in "xy":
            (place / name).symlink_to(tree / f"train/a/{number + 1}")
    refused(tree, tmp_path, "holds more than 1,000 files: refused, split it")


@pytest.mark.reliability("links")
@pytest.mark.parametrize("target", ["nowhere", "/nowhere/at/all", "../../gone.png", "a/b"])
def test_dangling_links_are_counted(tree, tmp_path, target):
    (tree / "train/a/gone.png").symlink_to(target)
    (tree / "test/c").symlink_to(target)
    (tree / "elsewhere").symlink_to(target)  # outside the splits
    index, said = counted(tree, tmp_path)
    assert index == both({"a": 1, "b": 1})
    assert said == ["2 files were left out, e.g. test/c (a broken link)"]


def test_a_class_of_dangling_links_is_refused(tree, tmp_path):
    (tree / "train/a/0.png").unlink()
    (tree / "train/a/0.png").symlink_to("gone")
    refused(tree, tmp_path, r"class folder train/a can be taken, e\.g\. train/a/0\.png: a broken link")


def test_special_files_are_counted_and_not_opened(tree, tmp_path):
    os.mkfifo(tree / "train/a/1.png")
    assert counted(tree, tmp_path)[1] == ["1 file was left out, e.g. train/a/1.png (not a regular file)"]


def test_unreadable_folder_is_reported_by_name(tree, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("train/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(tree, tmp_path, r"images/train/b may not be read: change its permissions$")


@pytest.mark.reliability("archive-paths")
def test_links_in_archives_are_counted_and_not_followed(tree, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tree, "")
        for kind, name in ((tarfile.SYMTYPE, "s"), (tarfile.LNKTYPE, "h")):
            member = tarfile.TarInfo(f"train/a/{name}.png")
            member.type, member.linkname = kind, "train/b/0.png"
            archive.addfile(member)
    line = "{} left out, e.g. train/a/{}.png (a link in an archive, which is not followed)"
    assert counted(tmp_path / "a.tar", tmp_path) == (
        both({"a": 1, "b": 1}),
        [line.format("2 files were", "h")],
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in tree.rglob("*.png"):
            archive.write(file, file.relative_to(tree))
        link = zipfile.ZipInfo("train/a/s.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "../b/0.png")
    assert counted(tmp_path / "a.zip", tmp_path)[1] == [line.format("1 file was", "s")]


# --- scripts and digits ----------------------------------------------------------------------------

CLASSES = {
    "superscript": "²",
    "number and superscript": "x1²",
    "Arabic": "قطة٣",
    "Persian": "۴",
    "Devanagari": "बिल्ली१२",
    "Bengali": "৫",
    "Thai": "แมว๙",
    "full width": "１２",
    "circled": "①",
    "Roman": "Ⅻ",
    "fraction": "½",
    "mathematical": "𝟗",
    "Chinese": "三毛猫",
    "Korean": "고양이",
    "Vietnamese": "mèo tiếng Việt",
    "Greek": "γάτα",
    "Hebrew": "חתול",
    "emoji": "🐈‍⬛1",
    "ligature": "ﬁsh",
    "digits without end": "9" * 200,
    "blanks and quotes": " a 'b' \"c\" $(d)",
    "backslash": "a\\b",
    "dots": "a.png",
}


@pytest.mark.reliability("any-script")
@pytest.mark.parametrize("name", CLASSES)
def test_classes_and_files_in_any_script(tmp_path, name):
    """Names are composed in train and decomposed in test, in folders and archives."""
    text = CLASSES[name]
    forms = {
        "train": unicodedata.normalize("NFC", text),
        "test": unicodedata.normalize("NFD", text),
    }
    tree = tmp_path / "images"
    for split, form in forms.items():
        fill(tree, [f"{split}/{form}/{form}.png", f"{split}/other/1.png"])
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tree, "top")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in tree.rglob("*.png"):
            archive.write(file, file.relative_to(tree))
    for path in (tree, tmp_path / "a.tar", tmp_path / "a.zip"):
        assert counted(path, tmp_path) == (both({forms["train"]: 1, "other": 1}), [])


@pytest.mark.reliability("any-script")
@pytest.mark.parametrize("text", ["Bär", "Ångström", "한글", "ệ", "ñandú", "Å", "が", "Ḍ̇", "ö̲", "ÿ"])
def test_two_spellings_in_one_split_are_one_class(tmp_path, text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    names = [f"train/{composed}/1.png", f"train/{decomposed}/2.png", f"train/{decomposed}/10.png"]
    tree = fill(tmp_path / "images", [*names, f"test/{decomposed}/1.png", *split_names(["other"])])
    source = folder_source(tree, tmp_path / "data")
    assert source.index()["train"][composed] == names
    source.prepare(tmp_path / "out")
    assert len(open_prepared(tmp_path / "out").train_images) == 5


@pytest.mark.reliability("any-script")
def test_files_may_have_undecodable_names_but_classes_may_not(tmp_path):
    """Files whose names are not UTF-8 are read, but a class must be renamed."""
    tree = fill(tmp_path / "images", split_names(["a", "b"]))
    os.rename(tree / "train/a/0.png", os.fsencode(tree / "train/a") + b"/b\xe4r.png")
    assert counted(tree, tmp_path)[0]["train"] == {"a": 2, "b": 2}
    for split in ("train", "test"):
        os.rename(tree / split / "a", os.fsencode(tree / split) + b"/b\xe4r")
    message = r"the name of the class folder 'b\\udce4r' is not UTF-8: rename the folder$"
    refused(tree, tmp_path, message)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tree, "")
    refused(tmp_path / "a.tar", tmp_path, message)


def test_natural_order_of_digits():
    assert sorted(["10", "9", "٣", "²", "１", "x²", "x10", "x9", "0010"], key=natural) == [
        "１", "٣", "9", "0010", "10", "x9", "x10", "x²", "²",
    ]  # fmt: skip
    assert natural("9" * 10_000) > natural("8" * 10_000) > natural("9" * 9_999)


@pytest.mark.slow
@given(st.lists(st.text(max_size=8), max_size=8))
@settings(max_examples=200, deadline=None)
def test_natural_order_is_total(names):
    ordered = sorted(names, key=natural)
    assert sorted(set(names), key=natural) == list(dict.fromkeys(ordered))
    assert all(natural(a) <= natural(b) for a, b in pairwise(ordered))


# --- archives of other systems ---------------------------------------------------------------------


def zipped(path: Path, members: dict[bytes | str, bytes], system: int = 3, extra=lambda name: b"") -> Path:
    """Write a zip whose members have these names: text with the UTF-8 flag, bytes without it."""
    local, central = b"", b""
    for name, content in members.items():
        raw, flag = (name.encode(), 0x800) if isinstance(name, str) else (name, 0)
        field = extra(raw)
        sizes = zlib.crc32(content), len(content), len(content), len(raw), len(field)
        common = struct.pack("<HHHHHIIIHH", 20, flag, 0, 0, 33, *sizes)
        central += (
            b"PK\1\2"
            + bytes([20, system])
            + common
            + struct.pack("<HHHII", 0, 0, 0, 0, len(local))
            + raw
            + field
        )
        local += b"PK\3\4" + common + raw + field + content
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(central), len(local), 0)
    path.write_bytes(local + central + b"PK\5\6" + end)
    return path


def members(names: list, join=lambda *parts: "/".join(parts)) -> dict:
    return {
        join(split, name, "1.png"): picture(i) for i, name in enumerate(names) for split in ("train", "test")
    }


@pytest.mark.reliability("foreign-archives")
@pytest.mark.parametrize("system", [0, 3, 10, 19])
def test_backslashes_in_a_zip(tmp_path, system):
    """Some programs on Windows write them, even in archives that claim to come from Unix."""
    names = members(["a", "b"], lambda *parts: "\\".join(parts))
    path = zipped(tmp_path / "a.zip", names | {"train\\c\\": b"", "top.txt": b""}, system)
    assert counted(path, tmp_path) == (both({"a": 1, "b": 1}), [])
    below = {f"set\\{name}".encode(): content for name, content in names.items()}
    assert counted(zipped(tmp_path / "b.zip", below, system), tmp_path) == (both({"a": 1, "b": 1}), [])
    refused(zipped(tmp_path / "c.zip", names | {"..\\x.png": b""}), tmp_path, "a path that leads out of it")


@pytest.mark.reliability("foreign-archives")
@pytest.mark.parametrize(
    ("encoding", "names", "read"),
    [
        ("utf-8", ["Bär", "猫"], ["Bär", "猫"]),
        ("utf-8", [unicodedata.normalize("NFD", "Bär"), "が"], ["Bär", "が"]),
        ("cp437", ["Bär", "Größe"], ["Bär", "Größe"]),
        ("cp437", ["½", "ß²"], ["½", "ß²"]),
        ("cp850", ["Bär", "b"], ["Bär", "b"]),
        ("ascii", ["a", "b"], ["a", "b"]),
        ("cp932", ["表", "猫"], None),  # with unknown code pages only the number of classes is right
        ("gbk", ["猫", "狗"], None),
        ("cp866", ["кот", "пёс"], None),
        ("euc-kr", ["고양", "개"], None),
    ],
)
def test_names_in_a_zip_without_the_flag_for_utf8(tmp_path, encoding, names, read):
    raw = {name.encode(encoding): content for name, content in members(names).items()}
    index, _ = counted(zipped(tmp_path / "a.zip", raw, 0), tmp_path)
    assert index["train"].keys() == index["test"].keys()
    assert len(index["train"]) == 2
    assert read is None or set(index["train"]) == set(read)


def test_a_zips_extra_field_for_names_in_unicode(tmp_path):
    """Info-ZIP's field is used only if its checksum matches the name."""
    raw = {name.encode("gbk"): content for name, content in members(["猫", "狗"]).items()}

    def stated(name: bytes) -> bytes:
        field = b"\1" + struct.pack("<I", zlib.crc32(name)) + name.decode("gbk").encode()
        return b"\xfe\xca\0\0" + struct.pack("<HH", 0x7075, len(field)) + field

    assert set(counted(zipped(tmp_path / "a.zip", raw, 3, stated), tmp_path)[0]["train"]) == {"猫", "狗"}
    path = zipped(tmp_path / "b.zip", raw, 3, lambda name: stated(b"other"))
    assert "猫" not in counted(path, tmp_path)[0]["train"]


@pytest.mark.reliability("foreign-archives")
@pytest.mark.parametrize("prefix", ["./", "/", ".//", "top/./", "./top/", "top//"])
def test_path_prefixes_in_a_tar_are_removed(tmp_path, prefix):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in members(["a", "b"]).items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert counted(tmp_path / "a.tar", tmp_path) == (both({"a": 1, "b": 1}), [])


SYSTEM = [
    "__MACOSX/train/a/._1.png", "train/__MACOSX/1.png", "train/a/.DS_Store", ".DS_Store", "train/.DS_Store",
    "train/a/._0.png", "train/a/Thumbs.db", "train/THUMBS.DB", "train/a/ehthumbs.db", "test/a/desktop.ini",
    "train/a/Icon\r", "train/a/.directory", "train/a/@eaDir/0.png/thumb.jpg", "$RECYCLE.BIN/train/a/1.png",
    "System Volume Information/x", "train/.Trashes/1.png", "train/a/.AppleDouble/0.png",
]  # fmt: skip


@pytest.mark.reliability("foreign-archives")
@pytest.mark.parametrize("name", SYSTEM)
def test_system_files_are_ignored_silently(tree, tmp_path, name):
    fill(tree, [name])
    assert counted(tree, tmp_path) == (both({"a": 1, "b": 1}), [])
    path = zipped(
        tmp_path / "a.zip",
        {f.relative_to(tree).as_posix(): f.read_bytes() for f in tree.rglob("*") if f.is_file()},
    )
    assert counted(path, tmp_path) == (both({"a": 1, "b": 1}), [])


@pytest.mark.reliability("files-left-out")
@pytest.mark.parametrize(
    "name", ["train/a/.hidden.png", "train/.ipynb_checkpoints/1.png", "test/b/.git/x/1.png", "train/.keep"]
)
def test_hidden_files_are_counted(tree, tmp_path, name):
    fill(tree, [name, ".outside/1.png", "other/.png"])
    index, said = counted(tree, tmp_path)
    assert index == both({"a": 1, "b": 1})
    assert said == [f"1 file was left out, e.g. {name} (a hidden file, or in a hidden folder)"]


# --- what is left out ------------------------------------------------------------------------------


@pytest.mark.reliability("files-left-out")
def test_every_reason_has_its_line(tree, tmp_path):
    fill(
        tree, ["train/a/1.avif", "train/a/.1.png", "val/a/1.png", "val/b/1.png", "extras/1.png", "notes.txt"]
    )
    (tree / "train/a/2.png").symlink_to("gone")
    shutil.copy(tree / "train/a/0.png", tree / "train/0.png")
    _, said = counted(tree, tmp_path)
    assert len(said) == 3
    assert any(
        line.startswith("4 files were left out, e.g. train/0.png (expected <train|test>/") for line in said
    )
    source = folder_source(tree, tmp_path / "data")
    left_out = [
        "train/0.png",
        "train/a/1.avif",
        "train/a/2.png",
        "train/a/.1.png",
        "val/a/1.png",
        "val/b/1.png",
    ]
    assert source.left_out() == left_out


def test_control_characters_in_file_names_are_escaped(tree, tmp_path):
    names = ["train/a/1\n\x1b[31m.avif", os.fsdecode(b"train/b/\xe4.avif")]
    for name in names:
        (tree / name).write_bytes(IMAGE)
    (line,) = counted(tree, tmp_path)[1]
    assert r"e.g. train/a/1\n\x1b[31m.avif (expected" in line and line.isprintable()


@pytest.mark.reliability("unusual-images")
def test_frames_that_are_not_read_are_counted(tree, tmp_path):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "green")]
    for name in ("train/b/1.gif", "train/a/1.gif", "train/a/9.webp"):
        kind = name.rpartition(".")[2].upper()
        (tree / name).write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    line = "3 images hold several frames, of which the first is taken, e.g. train/a/1.gif"
    for _ in range(2):  # the second time the check is cached
        assert counted(tree, tmp_path)[1] == [line]


def test_sizes_are_those_of_the_upright_images(tmp_path):
    """Two landscape and two portrait images have the same size after orientation."""
    exif = Image.Exif()
    exif[0x112] = 6
    tree = fill(tmp_path / "images", [])
    for number, name in enumerate(split_names(["a", "b"], 1, 1)):
        (tree / name).parent.mkdir(parents=True)
        size, options = ((8, 4), {"exif": exif}) if number % 2 else ((4, 8), {})
        (tree / name).write_bytes(encoded(Image.new("RGB", size), "JPEG", **options))
    source = folder_source(tree, tmp_path / "data")
    source.check()
    assert source._note.facts["sizes"] == {"4x8": 4}
