"""The direction of imports, and the size of files."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sharc_core"

# A folder imports only from folders listed before it.
ORDER = [
    "common",  # errors, settings, registries, files, devices
    "datasets",  # plug-in: where images come from
    "streams",  # tasks and the order of their samples
    "heads",  # what is trained
    "representations",  # plug-in: how a sample is stored
    "selection",  # plug-in: which samples are stored
    "associative",  # plug-in: associative memories, which complete maps
    "saliency",  # plug-in: which channels matter
    "backbones",  # plug-in: frozen networks
    "features",  # cached feature maps of data sets
    "memory",  # the episodic memory and its budget
    "methods",  # plug-in: replay methods and baselines
    "grid",  # grid file to cells
    "provenance",  # where a number comes from
    "learning",  # one cell's run
    "stages",  # functions that the workflow's jobs call
    "results",  # runs.csv, summaries, statistics, tables
    "figures",
    "studies",  # plug-in: experiments
    "report",
    "verification",  # records of results, compared and verified
    "planning",  # the plan and the progress of a call of Snakemake
    "__init__",
    "__main__",
]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """Return the folder or module directly under sharc_core that contains a file."""
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
def test_files_have_at_most_480_lines(path):
    assert len(path.read_text().splitlines()) <= 480


@pytest.mark.parametrize(
    ("name", "lines"), [("er", 45), ("derpp", 45), ("agem", 40), ("gem", 80), ("sgd", 30)]
)
def test_methods_stay_equation_sized(name, lines):
    assert len((PACKAGE / "methods" / f"{name}.py").read_text().splitlines()) <= lines


@pytest.mark.reliability("unsafe-weights")
@pytest.mark.slow
def test_no_pickle():
    """No code unpickles downloaded files, except restricted_pickle.py, which looks up no functions."""
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
