"""Writing: whatever the system has against it is one line that names the path."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sharc_core import files
from sharc_core.errors import UserError
from sharc_core.files import atomic_path, disk_errors, write_json, write_text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk full while writing out"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot write out: permission denied"),
        (OSError(errno.EIO, "Input/output error"), "cannot write out: input/output error"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x"),
            r"cannot write out: file name too long \(x\)",
        ),
        (OSError("odd\nthing"), "cannot write out: odd thing"),
        (OSError(), "cannot write out: OSError"),
    ],
)
def test_every_system_error_is_one_line(error, message):
    with pytest.raises(UserError, match=message) as caught, disk_errors("out"):
        raise error
    assert "\n" not in str(caught.value)


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write .*/file/x.json: "):
        write_json(tmp_path / "file" / "x.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write .*/folder: is a directory"):
        write_text(tmp_path / "folder", "text")


def test_other_errors_pass_and_leave_nothing(tmp_path):
    with pytest.raises(KeyError), atomic_path(tmp_path / "x"):
        raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from sharc_core.files import atomic_folder, atomic_path
with {context}(sys.argv[1]) as temporary:
    (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("context", ["atomic_path", "atomic_folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, context):
    target = tmp_path / "target[1]"
    command = [sys.executable, "-c", KILLED.format(context=context), str(target)]
    assert subprocess.run(command, cwd=Path(__file__).parents[1]).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".target[1].")
    other = tmp_path / ".target[1].swp"  # an editor's
    other.write_text("mine")
    with getattr(files, context)(target) as temporary:
        assert not left.exists()
        if temporary.is_dir():
            (temporary / "whole").write_text("whole")
        else:
            temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([other, target])


def test_a_temporary_in_use_is_left_alone(tmp_path):
    with atomic_path(tmp_path / "x") as one:
        one.write_text("one")
        with atomic_path(tmp_path / "x") as other:
            assert one.exists()
            other.write_text("other")
        assert (tmp_path / "x").read_text() == "other"
    assert (tmp_path / "x").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_without_locks_nothing_is_taken_for_abandoned(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".x.left.part").write_text("half")
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    write_text(tmp_path / "x", "whole")
    assert (tmp_path / ".x.left.part").exists() and (tmp_path / "x").read_text() == "whole"
