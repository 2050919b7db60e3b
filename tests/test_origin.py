"""The origin of a run: commit and state of the checkout, host, data and weights."""

import os
import platform
import socket
import subprocess

import pytest
import torch
from factories import make_cell, make_features

from sharc_core.learning.learner import run_cell
from sharc_core.provenance import origin
from sharc_core.provenance.origin import UNKNOWN, features_hash, host, run_origin

NOWHERE = {"commit": UNKNOWN, "dirty": None}


def git(folder, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with one committed file in the package and one outside it."""
    root = tmp_path / "project"
    (root / "sharc_core").mkdir(parents=True)
    (root / "sharc_core/mine.py").write_text("x = 1\n")
    (root / "README.md").write_text("hello\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def state(root) -> dict:
    return origin.git_state.__wrapped__(root)


def test_a_clean_checkout(checkout):
    assert state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    assert len(state(checkout)["commit"]) == 40


@pytest.mark.parametrize("path", ["README.md", "sharc_core/mine.py", "sharc_core/plugin.py"])
def test_changed_files_and_new_code_make_it_dirty(checkout, path):
    (checkout / path).write_text("x = 2\n")
    assert state(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": True}


def test_a_staged_change_is_a_change(checkout):
    (checkout / "README.md").write_text("x\n")
    git(checkout, "add", "--all")
    assert state(checkout)["dirty"] is True


@pytest.mark.parametrize("path", ["out/runs.csv", "mine.yaml", "sharc_core/__pycache__/mine.cpython-311.pyc"])
def test_results_grid_files_and_compiled_code_do_not_make_it_dirty(checkout, path):
    """The first results of a run must not make those that follow look changed."""
    (checkout / path).parent.mkdir(exist_ok=True)
    (checkout / path).write_text("x\n")
    assert state(checkout)["dirty"] is False


def test_ignored_code_does_not_make_it_dirty(checkout):
    (checkout / ".git/info/exclude").write_text("scratch.py\n")
    (checkout / "sharc_core/scratch.py").write_text("x\n")
    assert state(checkout)["dirty"] is False


def test_another_repository_around_a_copy_is_not_its_own(checkout):
    inner = checkout / "copies/project"
    (inner / "sharc_core").mkdir(parents=True)
    assert state(inner) == NOWHERE


def test_outside_a_checkout_before_the_first_commit_and_without_git(tmp_path, checkout, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert state(tmp_path) == NOWHERE
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    assert state(tmp_path / "empty") == NOWHERE
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state(checkout) == NOWHERE


def test_environment_variables_of_git_are_ignored(checkout, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    found = state(checkout)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    assert found == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_reading_the_state_writes_nothing(checkout):
    """Jobs of a grid read the state concurrently."""
    index = checkout / ".git/index"
    os.utime(checkout / "README.md", (1, 1))  # git would update its index for the unchanged file
    before = index.read_bytes(), index.stat().st_mtime_ns
    assert state(checkout)["dirty"] is False
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before


def test_the_host_is_a_type_and_no_name(monkeypatch):
    found = host()
    assert found.startswith(f"{platform.system()} {platform.machine()}")
    assert len(found.splitlines()) == 1
    assert socket.gethostname() not in found
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert host("cuda") == f"{found}, GPU of cuda"
    assert host(torch.device("cuda:1")) == f"{found}, GPU of cuda:1"


def test_a_document_says_where_it_was_made():
    features = make_features()
    features.manifest["files"] = {"train_maps.npy": {"sha256": "1" * 64, "bytes": 1}}
    document = run_cell(features, make_cell("sgd"))
    (training,) = document["trainings"]
    assert training["origin"] == run_origin(features.manifest)
    assert training["origin"] == origin.git_state() | {
        "data": "d" * 64,
        "weights": "b" * 64,
        "features": features_hash(features.manifest),
        "host": host(),
    }
    other = {"files": {"train_maps.npy": {"sha256": "2" * 64, "bytes": 1}}}
    assert features_hash(other) != features_hash(features.manifest)
