"""Rows of mapped files."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

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
    values, index = map_rows(path), torch.arange(0, 400, 3)
    assert torch.equal(values[index], expected[index])
    assert mapped_kilobytes(path) > 2000
    rows = read_rows(values, index)
    assert mapped_kilobytes(path) < 500
    assert torch.equal(rows, expected[index]) and torch.equal(values, expected)


def test_rows_of_other_arrays_are_copied():
    values = torch.rand(5, 3)
    copy = values.clone()
    rows = read_rows(values, torch.tensor([4, 0]))
    rows += 1
    assert torch.equal(values, copy)
