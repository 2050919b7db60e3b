"""A cell's code hash: changes with what its numbers come from, and with nothing else."""

import shutil
from pathlib import Path

import pytest

from sharc_core import provenance


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The package copied, and provenance looking at the copy."""
    folder = tmp_path / "sharc_core"
    shutil.copytree(provenance.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    for registry, package in (
        (provenance.METHODS, "methods"),
        (provenance.ASSOCIATIVE_MEMORIES, "associative"),
    ):

        def module_file(name, package=package):
            return str(folder / package / f"{name}.py")

        monkeypatch.setattr(registry, "module_file", module_file)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_its_own_method_and_the_core_count(copy):
    before = provenance.code_hash.__wrapped__("gem", None)
    edit(copy / "methods/projection.py", "RIDGE = 1e-10", "RIDGE = 1e-9")
    after = provenance.code_hash.__wrapped__("gem", None)
    assert before != after
    edit(copy / "memory.py", "index = order[:, -count:]", "index = order[:, :count]")
    assert provenance.code_hash.__wrapped__("gem", None) != after


def test_other_plugins_comments_docstrings_and_messages_do_not_count(copy):
    before = provenance.code_hash.__wrapped__("er", "mean")
    edit(copy / "methods/gem.py", "margin: float", "margin2: float")
    edit(copy / "associative/modern_hopfield.py", "half()", "float()")
    edit(copy / "methods/er.py", "One step on current", "One more step on current")
    edit(copy / "config.py", "is listed twice", "is there twice")
    (copy / "methods/new.py").write_text("x = 1\n")
    assert provenance.code_hash.__wrapped__("er", "mean") == before
    edit(copy / "associative/mean.py", "rows, maps.float())", "rows, maps.float() * 2)")
    assert provenance.code_hash.__wrapped__("er", "mean") != before


def test_git_state_outside_a_checkout_is_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_state() == {}
