"""Writing: whatever the system has against it is one line that names the path."""

import errno

import pytest

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
