"""Rows of mapped files."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sharc_core.common import mapped
from sharc_core.common.mapped import map_rows, read_rows


def mapped_kilobytes(path: Path) -> int:
    """Return how much of a file's mapping is in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.endswith(str(path))]
    (rss,) = [line for line in lines[start + 1 : start + 8] if line.startswith("Rss:")]
    return int(rss.split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_rows_of_a_mapped_file_leave_no_pages_in_the_process(tmp_path):
    path, expected = tmp_path.resolve() / "maps.npy", torch.rand(400, 5000)
    np.save(path, expected.numpy())
    values, index = map_rows(path), torch.tensor([*range(0, 400, 3), 7, 7])
    rows = read_rows(values, index)
    assert mapped_kilobytes(path) < 500
    assert torch.equal(rows, expected[index]) and rows.dtype == expected.dtype
    assert torch.equal(values[index], expected[index])
    assert mapped_kilobytes(path) > 2000


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_rows_of_every_shape_and_type(tmp_path, dtype):
    expected = np.arange(7 * 3 * 2).reshape(7, 3, 2).astype(dtype)
    np.save(tmp_path / "maps.npy", expected)
    values = map_rows(tmp_path / "maps.npy")
    for index in ([6, 0, 0], [], [3]):
        rows = read_rows(values, torch.tensor(index, dtype=torch.int64))
        assert rows.numpy().tolist() == expected[index].tolist()
    assert torch.equal(read_rows(values, torch.arange(7) == 2), values[2:3])
    assert torch.equal(read_rows(values[2:], torch.tensor([0])), values[2:3])  # another first row


def test_rows_that_come_in_pieces_are_whole(tmp_path, monkeypatch):
    expected = torch.rand(9, 50)
    np.save(tmp_path / "maps.npy", expected.numpy())
    values, whole = map_rows(tmp_path / "maps.npy"), os.preadv
    monkeypatch.setattr(mapped.os, "preadv", lambda file, buffers, at: whole(file, [buffers[0][:7]], at))
    assert torch.equal(read_rows(values, torch.tensor([8, 0])), expected[[8, 0]])


def test_a_file_that_became_shorter_is_an_error(tmp_path):
    np.save(tmp_path / "maps.npy", np.ones((9, 5000), np.float32))
    values = map_rows(tmp_path / "maps.npy")
    os.truncate(tmp_path / "maps.npy", 100_000)
    with pytest.raises(OSError, match=r"row 8 of .*maps\.npy cannot be read"):
        read_rows(values, torch.tensor([0, 8]))
    with pytest.raises(OSError, match="row -1 of"):
        read_rows(values, torch.tensor([-1]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_files_are_closed_with_the_tensor(tmp_path):
    np.save(tmp_path / "maps.npy", np.ones((9, 5), np.float32))
    before = len(os.listdir("/proc/self/fd"))
    values = [map_rows(tmp_path / "maps.npy") for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) > before
    del values
    assert len(os.listdir("/proc/self/fd")) == before


def test_rows_of_other_arrays_are_copied():
    values = torch.rand(5, 3)
    copy = values.clone()
    rows = read_rows(values, torch.tensor([4, 0]))
    rows += 1
    assert torch.equal(values, copy)
