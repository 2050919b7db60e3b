"""torchvision's weights from a mirror folder, with a real checkpoint whose name contains its checksum."""

from types import SimpleNamespace

import pytest
import torch

from sharc_core.backbones.weights import download
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file


@pytest.fixture
def mirrored(tmp_path):
    """A mirror with one checkpoint, and a weights entry whose download fails."""
    state = {"conv1.weight": torch.arange(6.0)}
    torch.save(state, tmp_path / "new.pth")
    path = tmp_path / f"net-{sha256_file(tmp_path / 'new.pth')[:8]}.pth"
    (tmp_path / "new.pth").rename(path)

    def unreachable(**options):
        raise OSError("no network")

    entry = SimpleNamespace(url=f"somewhere/models/{path.name}", get_state_dict=unreachable)
    return SimpleNamespace(path=path, entry=entry, state=state)


def test_the_mirror_comes_first(mirrored):
    found = download(mirrored.entry, mirrored.path.parent)
    assert torch.equal(found["conv1.weight"], mirrored.state["conv1.weight"])


@pytest.mark.reliability("damaged-torchvision-weights")
def test_damaged_file_is_reported_by_name(mirrored):
    mirrored.path.write_bytes(mirrored.path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"net-.*\.pth is damaged .*get it again"):
        download(mirrored.entry, mirrored.path.parent)


@pytest.mark.reliability("unsafe-weights")
def test_nothing_is_unpickled(mirrored):
    """A checkpoint that contains code is refused even if its checksum matches its name."""
    torch.save({"x": SimpleNamespace(a=1)}, mirrored.path)
    path = mirrored.path.with_name(f"net-{sha256_file(mirrored.path)[:8]}.pth")
    mirrored.path.rename(path)
    mirrored.entry.url = f"somewhere/{path.name}"
    with pytest.raises(UserError, match="holds more than tensors"):
        download(mirrored.entry, path.parent)


@pytest.mark.reliability("incomplete-mirror")
def test_error_for_a_missing_file_says_where_to_put_it(mirrored, tmp_path):
    with pytest.raises(UserError, match=r"no network.*into the mirror folder"):
        download(mirrored.entry, tmp_path / "empty")
