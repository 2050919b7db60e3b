"""docs/reliability.md: every row has tests marked with its name, and every mark has a row."""

import ast
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def rows() -> list[str]:
    """Return the rows of all tables without headers."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith("| ---") and not line.endswith("| tests |")]


def marks() -> Counter[str]:
    """Return the number of tests with each mark, from the sources without importing them."""
    found: Counter[str] = Counter()
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                calls = [d for d in node.decorator_list if isinstance(d, ast.Call)]
                marked = [c for c in calls if ast.unparse(c.func) == "pytest.mark.reliability"]
                found.update(ast.literal_eval(name) for call in marked for name in call.args)
    return found


def test_every_row_has_tests_and_every_mark_has_its_row():
    columns = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows()]
    assert len(columns) > 80 and all(len(row) == 3 for row in columns)
    names = [row[2].strip().strip("`") for row in columns]
    assert len(set(names)) == len(names)
    assert set(names) == set(marks())


def test_the_triggers_that_are_explained_are_those_that_are_set():
    profile = (ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8")
    (set_,) = re.findall(r"^rerun-triggers: \[(.*)\]$", profile, re.MULTILINE)
    (told,) = re.findall(r"leaves to Snakemake\s\((.*)\)", TEXT)
    assert re.findall(r"`([\w-]+)`", told) == set_.split(", ")
    assert "rerun-incomplete: true" in profile


@pytest.mark.reliability("audit")
def test_the_audit_covers_the_lock_file():
    """With --strict, packages that pip-audit cannot look up are failures."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\naudit:")[1].split("\n\n")[0]
    assert "pip_audit --strict" in recipe and "-r requirements.lock" in recipe


def test_readme_links_to_the_page():
    assert "docs/reliability.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_test_named_in_fidelity_md_exists():
    text = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    files = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("test_*.py")}
    everything = "".join(files.values())
    named = set(re.findall(r"`(?:tests/)?(test_\w+\.py)", text))
    assert {"test_peer_bayespcn.py", "test_peer_runs.py", "test_peer_mammoth.py"} <= named <= set(files)
    tests = re.findall(r"(?:`|::)(test_\w+)`", text)
    assert tests and all(f"def {name}(" in everything for name in tests)


def test_option_reliability_keeps_the_tests_of_one_row(request):
    deselected: list = []
    hook = SimpleNamespace(pytest_deselected=lambda items: deselected.extend(items))
    items = list(request.session.items)
    every = list(items)
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda _: "audit", hook=hook), items)
    assert {item.name for item in items} == {"test_the_audit_covers_the_lock_file"}
    assert sorted(map(id, items + deselected)) == sorted(map(id, every))
