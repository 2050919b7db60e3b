"""The direction of flow: nothing imports what lies downstream of it, and plug-ins stay short."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sharc_core"

# From the bottom to the top: a folder imports only from those above its line here, never from one below.
ORDER = [
    "common",  # errors, settings, registries, files, devices
    "datasets",  # plug-in: where images come from
    "streams",  # tasks and the order of their samples
    "heads",  # what is trained
    "representations",  # plug-in: how a sample is stored
    "selection",  # plug-in: which samples are stored
    "associative",  # plug-in: memories that complete maps
    "saliency",  # plug-in: which channels matter
    "backbones",  # plug-in: frozen networks
    "features",  # what backbones make of data sets, cached
    "memory",  # the episodic memory and its budget
    "methods",  # plug-in: replay methods and baselines
    "grid",  # grid file to cells
    "provenance",  # where a number comes from
    "learning",  # one cell's run
    "stages",  # what the workflow's jobs call
    "results",  # runs.csv, summaries, statistics, tables
    "figures",
    "studies",  # plug-in: experiments
    "report",
    "verification",  # records of results, compared and verified
    "planning",  # what a call of Snakemake makes, and how it shows progress
    "__init__",
    "__main__",
]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The folder (or loose module) directly under sharc_core that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sharc_core."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sharc_core.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    own = unit(path)
    assert own in ORDER, f"give {own} a line in ORDER"
    for other in imports(path) - {own}:
        assert ORDER.index(other) < ORDER.index(own), f"{own} must not import {other}"


def test_no_module_lies_outside_the_folders():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ORDER) - {"__init__", "__main__"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_fit_in_the_head(path):
    assert len(path.read_text().splitlines()) <= 480


@pytest.mark.parametrize(
    ("name", "lines"), [("er", 45), ("derpp", 45), ("agem", 40), ("gem", 80), ("sgd", 30)]
)
def test_methods_stay_equation_sized(name, lines):
    assert len((PACKAGE / "methods" / f"{name}.py").read_text().splitlines()) <= lines


@pytest.mark.reliability("unsafe-weights")
@pytest.mark.slow
def test_no_pickle():
    """Nothing that was downloaded is ever unpickled, but by the reader that looks up no function."""
    for path in modules():
        text = path.read_text()
        assert "import pickle" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                names = {alias.name for alias in node.names}
                own = {"_Unpickler"} if path.name == "restricted_pickle.py" else set()
                assert names <= {"UnpicklingError"} | own, path
        assert "torch.load(" not in text or "weights_only=True" in text, path
        assert "allow_pickle=True" not in text, path
