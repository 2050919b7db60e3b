"""Plug-ins are found by their files, and only requested ones are imported."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sharc_core.common.errors import UserError
from sharc_core.common.registry import Registry

PLAIN = """
from {package} import KIND

@KIND.register("{name}")
class Entry:
    pass
"""
LOOP = """
from {package} import KIND

def make(name):
    class Entry:
        pass
    return Entry

for name in ("loop_a", "loop_b"):
    KIND.register(name)(make(name))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package to which a test may add modules before it is used: its name and folder."""
    name = f"plugins_{uuid.uuid4().hex}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f'from sharc_core.common.registry import Registry\n\nKIND = Registry("thing", "{name}")\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for module, text in {
        "a": PLAIN.format(package=name, name="a"),
        "b": PLAIN.format(package=name, name="b").replace('"b"', "'b'"),
        "many": LOOP.format(package=name),
    }.items():
        (folder / f"{module}.py").write_text(text)
    return name, folder


def registry(name: str) -> Registry:
    return __import__(name).KIND


def loaded(name: str) -> set[str]:
    return {module.split(".")[1] for module in sys.modules if module.startswith(f"{name}.")}


def test_only_what_is_asked_for_is_imported(package):
    name, folder = package
    kind = registry(name)
    assert loaded(name) == set()
    assert kind.get("a").name == "a" and loaded(name) == {"a"}
    assert kind.get("b").name == "b" and loaded(name) == {"a", "b"}
    assert Path(kind.module_file("a")) == folder / "a.py"
    assert loaded(name) == {"a", "b"}


def test_a_name_made_in_a_loop_is_found(package):
    name, _ = package
    assert registry(name).get("loop_b").name == "loop_b"


def test_all_names_are_listed_whatever_was_asked_for_first(package):
    name, _ = package
    kind = registry(name)
    kind.get("b")
    assert kind.names() == ["a", "b", "loop_a", "loop_b"]


@pytest.mark.parametrize("asked", ["c", "", None, 3, ["a"], 'a"'])
def test_error_for_an_unknown_name_lists_the_valid_ones(package, asked):
    name, _ = package
    with pytest.raises(UserError, match="unknown thing .*valid: a, b, loop_a, loop_b"):
        registry(name).get(asked)


def test_two_of_one_name_are_refused_whichever_is_asked_for(package):
    name, folder = package
    (folder / "z.py").write_text(PLAIN.format(package=name, name="a"))
    kind = registry(name)
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        kind.get("a")


def test_two_of_one_name_are_refused_if_one_of_them_came_with_another(package):
    name, folder = package
    (folder / "z.py").write_text(PLAIN.format(package=name, name="z") + PLAIN.format(package=name, name="a"))
    kind = registry(name)
    kind.get("z")
    with pytest.raises(ValueError, match="thing 'a' is registered twice"):
        kind.get("a")


def test_a_module_in_another_encoding_is_no_obstacle(package):
    name, folder = package
    text = "# -*- coding: latin-1 -*-\n# \xe9\n" + PLAIN.format(package=name, name="e")
    (folder / "e.py").write_bytes(text.encode("latin-1"))
    assert registry(name).get("b").name == "b"
    assert registry(name).get("e").name == "e"


@pytest.mark.slow
def test_a_cells_job_does_not_wait_for_libraries_it_has_no_use_for():
    """Loading scikit-learn, SciPy, pandas, torchvision or torch's compiler takes longer than a small cell."""
    code = """
import sys
from sharc_core.grid.cell import Cell
from sharc_core.features.cache import open_views
from sharc_core.learning.learner import run_cell
from sharc_core.associative import ASSOCIATIVE_MEMORIES
from sharc_core.methods import METHODS
from sharc_core.backbones.config import BackboneConfig
from sharc_core.backbones.model import maps_shape

METHODS.get("er"), ASSOCIATIVE_MEMORIES.get("modern_hopfield")
maps_shape(BackboneConfig(arch="resnet_small", weights="w.safetensors", image_size=32), 32)
print(sorted({"sklearn", "scipy.stats", "pandas", "torchvision", "torch._dynamo"} & set(sys.modules)))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert run.stdout == "[]\n", run.stdout + run.stderr
