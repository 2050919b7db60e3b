"""docs/reliability.md: every row has tests, and every test that it names is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> list[str]:
    """The tables' lines without their headers."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    return [line for line in lines if not line.startswith("| ---") and not line.endswith("| test |")]


def test_every_row_names_a_test_in_its_last_column():
    assert len(rows()) > 40
    for row in rows():
        columns = re.split(r"(?<!\\)\|", row)[1:-1]
        assert len(columns) == 3, row
        tests = [test.strip() for test in columns[2].split(",")]
        assert all(NAMED.fullmatch(test) for test in tests), row
        assert len(set(tests)) == len(tests), row


def test_every_test_that_is_named_is_there():
    found: dict[str, set[str]] = {}
    for file, name in NAMED.findall(TEXT):
        if file not in found:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            found[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in found[file], f"{file}::{name}"


def test_the_triggers_that_are_explained_are_those_that_are_set():
    profile = (ROOT / "profiles/default/config.yaml").read_text(encoding="utf-8")
    (set_,) = re.findall(r"^rerun-triggers: \[(.*)\]$", profile, re.MULTILINE)
    (told,) = re.findall(r"leaves to Snakemake\s\((.*)\)", TEXT)
    assert re.findall(r"`([\w-]+)`", told) == set_.split(", ")
    assert "rerun-incomplete: true" in profile


def test_the_audit_covers_the_lock_file():
    """Whatever cannot be looked up fails it: without --strict pip-audit would call it clean."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\naudit:")[1].split("\n\n")[0]
    assert "pip_audit --strict" in recipe and "-r requirements.lock" in recipe


def test_the_readme_points_there():
    assert "docs/reliability.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_on_fidelity_names_is_there():
    text = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
    files = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("test_*.py")}
    everything = "".join(files.values())
    named = set(re.findall(r"`(?:tests/)?(test_\w+\.py)", text))
    assert {"test_peer_bayespcn.py", "test_peer_runs.py", "test_peer_mammoth.py"} <= named <= set(files)
    tests = re.findall(r"(?:`|::)(test_\w+)`", text)
    assert tests and all(f"def {name}(" in everything for name in tests)
