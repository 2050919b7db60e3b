"""Damaged files are found and named; unchanged ones are hashed once."""

import os

import pytest

from sharc_core.common import integrity
from sharc_core.common.errors import UserError
from sharc_core.common.integrity import STAMPS, check_files, entry, stamp


@pytest.fixture
def folder(tmp_path):
    for name in ("a.npy", "b.npy"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    return tmp_path


@pytest.fixture
def entries(folder):
    return {name: entry(folder / name) for name in ("a.npy", "b.npy")}


@pytest.fixture
def hashed(monkeypatch):
    """Record the names of the files that are hashed."""
    found, real = [], integrity.sha256_file
    monkeypatch.setattr(integrity, "sha256_file", lambda path: found.append(path.name) or real(path))
    return found


def flip(path, keep_time=False):
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def test_unstamped_files_are_hashed_once(folder, entries, hashed):
    check_files(folder, entries)
    assert hashed == ["a.npy", "b.npy"]
    check_files(folder, entries)
    assert len(hashed) == 2


def test_stamped_files_are_not_hashed_until_asked(folder, entries, hashed):
    stamp(folder, list(entries))
    check_files(folder, entries)
    assert hashed == []
    check_files(folder, entries, verify=True)
    assert hashed == ["a.npy", "b.npy"]


def test_a_touched_file_alone_is_hashed_again(folder, entries, hashed):
    stamp(folder, list(entries))
    os.utime(folder / "b.npy", (1, 1))
    check_files(folder, entries)
    check_files(folder, entries)
    assert hashed == ["b.npy"]


def test_flipped_bit_is_reported_by_file_name(folder, entries):
    stamp(folder, list(entries))
    flip(folder / "b.npy")
    with pytest.raises(UserError, match=r"b\.npy was altered .*: delete the folder and run again"):
        check_files(folder, entries)
    with pytest.raises(UserError, match="altered"):  # the file is not marked as checked
        check_files(folder, entries)


@pytest.mark.reliability("silent-damage")
def test_silent_damage_needs_verify(folder, entries):
    stamp(folder, list(entries))
    flip(folder / "a.npy", keep_time=True)
    check_files(folder, entries)
    with pytest.raises(UserError, match=r"a\.npy was altered"):
        check_files(folder, entries, verify=True)


def test_missing_and_short_files_are_reported_by_name(folder, entries):
    os.truncate(folder / "a.npy", 10)
    with pytest.raises(UserError, match=r"a\.npy has 10 bytes instead of 5,000"):
        check_files(folder, entries)
    (folder / "a.npy").unlink()
    with pytest.raises(UserError, match=r"a\.npy is missing"):
        check_files(folder, entries)


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_damaged_stamps_cost_a_hash_and_nothing_else(folder, entries, hashed, content):
    (folder / STAMPS).write_text(content)
    check_files(folder, entries)
    assert hashed == ["a.npy", "b.npy"]


def test_a_folder_that_cannot_be_written_is_read_all_the_same(folder, entries, hashed, monkeypatch):
    def refuse(*_):
        raise UserError("cannot write")

    monkeypatch.setattr(integrity, "write_json", refuse)
    check_files(folder, entries)
    check_files(folder, entries)
    assert len(hashed) == 4
