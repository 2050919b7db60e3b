"""The README's example method in a copy of the package: a real run and the contract tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUN = """
from factories import make_features
from sharc_core.grid.loading import load_grid
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.results.display_names import method_name
from test_config import BASE

features = make_features(classes=10, separation=3.0)
for cell in cells(load_grid(BASE | {"methods": ["mine"], "scenarios": ["class_il"]})):
    last = [rows[-1] for rows in run_cell(features, cell)["matrix"]["class_il"]]
    acc = sum(map(sum, last)) / sum(map(len, last))
    print(method_name(cell.method), cell.variant, cell.buffer, acc)
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the package and its tests with the README's file added."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("sharc_core", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "peer")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    section = (ROOT / "README.md").read_text().split("## Add a method")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ") or not line]
    code = "\n".join(lines).strip() + "\n"
    name = code.splitlines()[0].removeprefix("# ")
    assert name == "sharc_core/methods/mine.py", "the example names its file"
    (folder / name).write_text(code)
    return folder


def run(copy: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": "tests", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_example_runs_plain_and_with_sharc_and_learns(copy):
    rows = [line.split() for line in run(copy, "-c", RUN).splitlines()]
    assert [row[:3] for row in rows] == [
        ["Mine", variant, buffer] for buffer in ("20", "50") for variant in ("plain", "sharc")
    ]
    assert all(float(row[3]) > 40 for row in rows), "chance is 10 %, and SGD forgets down to 20 %"


@pytest.mark.slow
def test_example_passes_the_contract_tests(copy):
    arguments = ("-q", "-p", "no:cacheprovider", "tests/test_method_contract.py", "-k", "mine or distinct")
    out = run(copy, "-m", "pytest", *arguments)
    assert "passed" in out and "failed" not in out
    assert int(out.split(" passed")[0].split()[-1]) >= 6
