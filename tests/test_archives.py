"""Hostile archives with outside paths, links or bombs write no files and do not fill memory."""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from sharc_core.common.errors import UserError
from sharc_core.datasets import archives
from sharc_core.datasets.archives import Container

PICTURE = b"picture"


def tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(path: Path, message: str, read: list[str] | None = None) -> None:
    with pytest.raises(UserError, match=message) as caught:
        list(Container(path).read(read)) if read else Container(path).names()
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("archive-paths")
@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/../out.png", "a/.."])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    before = sorted(tmp_path.rglob("*"))
    message = r"holds a path that leads out of it, .*\.\..*: refused, repack it$"
    for path in (
        tar(inside / "a.tar", [(tarfile.TarInfo(name), PICTURE)]),
        zipped(inside / "a.zip", {name: PICTURE}),
    ):
        refused(path, message)
        path.unlink()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.reliability("archive-paths")
def test_absolute_paths_are_read_inside_the_archive(tmp_path):
    (tmp_path / "real.png").write_bytes(b"another")
    name = str(tmp_path / "real.png")
    for path in (
        tar(tmp_path / "a.tar", [(tarfile.TarInfo(name), PICTURE)]),
        zipped(tmp_path / "a.zip", {name: PICTURE}),
    ):
        assert list(Container(path).read(Container(path).names())) == [(name.lstrip("/"), PICTURE)]
    assert (tmp_path / "real.png").read_bytes() == b"another"


@pytest.mark.reliability("archive-paths")
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_file_is_ignored_in_a_tar(tmp_path, kind):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    link = tarfile.TarInfo("train/a/link.png")
    link.type, link.linkname = kind, str(secret)
    path = tar(tmp_path / "a.tar", [(tarfile.TarInfo("train/a/1.png"), PICTURE)])
    with tarfile.open(path, "a") as archive:
        archive.addfile(link)
    assert Container(path).names() == ["train/a/1.png"]


@pytest.mark.reliability("archive-paths")
def test_links_in_a_zip_are_ignored(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("1.png", PICTURE)
    assert Container(path).names() == ["1.png"]


@pytest.mark.reliability("archive-bombs")
def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "COUNT_LIMIT", 3)
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(PICTURE)
    containers = [
        tmp_path / "folder",
        tar(tmp_path / "a.tar", [(tarfile.TarInfo(name), PICTURE) for name in names]),
        zipped(tmp_path / "a.zip", dict.fromkeys(names, PICTURE)),
    ]
    for path in containers:
        refused(path, "holds more than 3 files: refused, split it")
    monkeypatch.setattr(archives, "COUNT_LIMIT", 4)
    assert all(len(Container(path).names()) == 4 for path in containers)


@pytest.fixture
def small(monkeypatch):
    """Lower the limits, so that tests need not write gigabytes."""
    monkeypatch.setattr(archives, "SMALL", 2**20)
    monkeypatch.setattr(archives, "MEMBER_LIMIT", 2**20)


BOMB = r"has [\d,]+ bytes and unpacks to [\d,]+ or more: refused as a decompression bomb"


@pytest.mark.reliability("archive-bombs")
@pytest.mark.parametrize("ending", ["tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_decompression_bomb_is_refused(tmp_path, small, ending):
    """Forty files of 400 kB of zeros exceed the limit together, but not alone."""
    zeros = bytes(400_000)
    if ending == "zip":
        path = zipped(tmp_path / "a.zip", {f"{n}.png": zeros for n in range(40)})
    else:
        path = tmp_path / f"a.{ending}"
        with tarfile.open(path, f"w:{ending[4:]}") as archive:
            for number in range(40):
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(zeros)
                archive.addfile(member, io.BytesIO(zeros))
    refused(path, BOMB)


def test_incompressible_content_is_accepted(tmp_path, small):
    noise = {f"{number}.png": os.urandom(400_000) for number in range(5)}
    path = tar(tmp_path / "a.tar.gz", [(tarfile.TarInfo(name), content) for name, content in noise.items()])
    assert dict(Container(path).read(list(noise))) == noise
    assert dict(Container(zipped(tmp_path / "a.zip", noise)).read(list(noise))) == noise


@pytest.mark.reliability("archive-bombs")
@pytest.mark.slow
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_oversized_tar_header_is_refused_without_reading_it(tmp_path, compress):
    """A pax header claims 64 GB and has 100 MB, all of which tarfile would read."""
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.PAX_FORMAT))
    header[156:157] = tarfile.XHDTYPE
    header[124:136] = b"\x80" + (64 * 2**30).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(compress(bytes(header) + bytes(100 * 2**20)))
    tracemalloc.start()
    try:
        refused(path, "one of its headers or files is .* bytes unpacked: too large")
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.reliability("archive-bombs")
@pytest.mark.slow
def test_a_zip_that_lies_about_a_size_unpacks_no_more_than_it_said(tmp_path):
    path = zipped(tmp_path / "a.zip", {"1.png": bytes(200 * 2**20)})
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02")
    content[central + 24 : central + 28] = struct.pack("<I", 1000)
    local = content.index(b"PK\x03\x04")
    content[local + 22 : local + 26] = struct.pack("<I", 1000)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        refused(path, r"1\.png is corrupt \(Bad CRC-32", ["1.png"])
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_that_unpack_all_at_once_are_refused(tmp_path, method):
    path = zipped(tmp_path / "a.zip", {"1.png": bytes(1000)}, method)
    refused(path, r"1\.png uses a compression method other than deflate: repack it", ["1.png"])


@pytest.mark.parametrize(
    ("ending", "compress"), [(".tgz", bz2.compress), (".tar", gzip.compress), (".tar.gz", bytes)]
)
def test_tar_compression_is_detected_from_the_content(tmp_path, ending, compress):
    plain = tar(tmp_path / "plain.tar", [(tarfile.TarInfo("1.png"), PICTURE)])
    path = tmp_path / f"a{ending}"
    path.write_bytes(compress(plain.read_bytes()))
    assert list(Container(path).read(["1.png"])) == [("1.png", PICTURE)]
