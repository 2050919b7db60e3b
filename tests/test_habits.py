"""The project's own files: citation, changelog, CI workflow, hooks and the marker of a typed package."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import yaml

from sharc_core import __version__

ROOT = Path(__file__).parents[1]


def load(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_citation_has_the_required_keys_and_this_version():
    citation = load("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == __version__
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert "arXiv:2310.04334" in [identifier["value"] for identifier in paper["identifiers"]]


def test_changelog_has_a_heading_for_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert __version__ in versions
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_workflow_calls_the_ci_script():
    (job,) = load(".github/workflows/ci.yml")["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, ".ci/run must be executable"
    assert job["timeout-minutes"] <= 60


def test_hooks_are_local_and_run_the_environments_ruff():
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/python -m ruff ")


def test_py_typed_is_packaged():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert (ROOT / "sharc_core/py.typed").is_file()
    assert any(fnmatch("py.typed", pattern) for pattern in patterns["sharc_core"])


def test_lint_checks_style_format_and_types():
    recipe = (ROOT / "Makefile").read_text().split("\nlint: installed\n")[1].split("\n\n")[0]
    for command in ("ruff check .", "ruff format --check .", "mypy"):
        assert f"$(RUN) {command}\n" in f"{recipe}\n"


def test_contributing_names_make_targets_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", text))
    assert named <= targets | {"test-fast"}
