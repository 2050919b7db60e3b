"""Writing files: system errors give one line with the path, and concurrent writes are safe."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sharc_core.common import files
from sharc_core.common.errors import UserError
from sharc_core.common.files import atomic_folder, atomic_path, disk_errors, read_json, write_json, write_text


@pytest.mark.reliability("read-only-folder")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk full while writing out"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full while writing out"),
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


def test_file_in_place_of_a_folder_is_refused(tmp_path):
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
from sharc_core.common.files import atomic_folder, atomic_path
with {context}(sys.argv[1]) as temporary:
    (temporary / "half" if temporary.is_dir() else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.reliability("killed-extraction")
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


# --- several processes, one folder -----------------------------------------------------------------


def whole(folder: Path) -> bool:
    """Return whether both files of a folder come from one writer."""
    return (folder / "a").read_text() == (folder / "b").read_text()


def fill(folder: Path, who: str) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(who)


@pytest.fixture(params=["exchanged", "moved aside"])
def put(request, monkeypatch, tmp_path_factory):
    """Test replacement of a folder in one step, and in two on systems that cannot exchange folders."""
    if request.param == "moved aside":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    elif not files._exchange(tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")):
        pytest.skip("folders cannot change places in one step here")
    return request.param


@pytest.mark.reliability("two-runs-one-data-folder")
@pytest.mark.parametrize("before", [True, False], ids=["there before", "not there before"])
def test_of_two_writers_of_a_folder_both_end_well(tmp_path, put, before):
    """Either writer may end while the other is still writing."""
    target = tmp_path / "target"
    if before:
        target.mkdir()
        fill(target, "old")
    with atomic_folder(target) as one:
        fill(one, "one")
        with atomic_folder(target) as other:
            fill(other, "other")
        assert (target / "a").read_text() == "other" and whole(target)
    assert (target / "a").read_text() == "one" and whole(target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_appears_at_the_last_moment(tmp_path, put, monkeypatch):
    """Another process creates the folder between the check and the rename."""
    target, real, calls = tmp_path / "target", os.replace, []

    def replace(source, destination):
        if Path(destination) == target and len(calls) < 2:
            calls.append(source)
            if not target.exists():
                target.mkdir()
            fill(target, f"other {len(calls)}")
        return real(source, destination)

    monkeypatch.setattr(files.os, "replace", replace)
    with atomic_folder(target) as mine:
        fill(mine, "mine")
    assert (
        len(calls) == (1 if put == "exchanged" else 2)
        and (target / "a").read_text() == "mine"
        and whole(target)
    )
    assert list(tmp_path.iterdir()) == [target]


WRITER = """
import sys, time
from pathlib import Path
from sharc_core.common.files import atomic_folder
target, who = sys.argv[1:]
end = time.monotonic() + 1.5
while time.monotonic() < end:
    with atomic_folder(target) as folder:
        for name in "ab":
            (folder / name).write_text(who)
"""


@pytest.mark.reliability("two-runs-one-data-folder")
@pytest.mark.slow
def test_processes_that_write_a_folder_at_once(tmp_path):
    """Real processes write repeatedly without errors, and readers never see a partial folder."""
    target = tmp_path / "target"
    root = Path(__file__).parents[1]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(target), who], cwd=root, stderr=subprocess.PIPE)
        for who in ("one", "two", "three")
    ]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        try:
            folder = os.open(target, os.O_RDONLY)
        except FileNotFoundError:  # the folder does not exist yet or is being exchanged
            continue
        try:
            texts = [Path(f"/proc/self/fd/{folder}/{name}").read_text() for name in "ab"]
        except FileNotFoundError:  # the folder was replaced and is being deleted
            continue
        finally:
            os.close(folder)
        seen += 1
        assert texts[0] == texts[1] != ""
    for writer in writers:
        assert (writer.wait(), writer.stderr.read()) == (0, b"")
    assert seen > 10 and whole(target)
    assert list(tmp_path.iterdir()) == [target]


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.reliability("damaged-json")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1', "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
    ],
)
def test_damaged_json_is_reported_by_name(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.json {message}.*: delete it and run again$") as caught:
        read_json(tmp_path / "x.json")
    assert str(caught.value).isprintable()
