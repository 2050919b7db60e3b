"""Setup files agree with each other and name no registry."""

import re
import tomllib
from pathlib import Path

import yaml
from make_env import environment

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {m[1].lower(): m[2] for line in lines if (m := re.match(r"([A-Za-z0-9_.-]+)==(\S+)", line))}


def test_conda_environment_has_the_locks_pins():
    text = (ROOT / "envs/sharc.yaml").read_text()
    assert text == environment((ROOT / "requirements.lock").read_text())
    packages = yaml.safe_load(text)["dependencies"][-1]["pip"]
    assert "torch==2.11.0" in packages


def test_lock_pins_torch_and_torchvision_that_belong_together():
    assert (pins()["torch"], pins()["torchvision"]) == ("2.11.0", "0.26.0")


def test_every_dependency_is_in_the_lock():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = re.findall(r"--extra (\w+)", (ROOT / "Makefile").read_text())
    # only users of these features install them, and their tests are skipped without them
    assert set(extras) - set(locked) == {"imagenet", "timm", "tune"}
    wanted = project["dependencies"] + [one for name in locked for one in extras[name]]
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower()
        assert name in pins(), name


def test_setup_files_name_no_registry():
    for name in (
        "requirements.lock",
        "constraints.txt",
        "envs/sharc.yaml",
        "Makefile",
        ".ci/run",
        "pyproject.toml",
    ):
        text = (ROOT / name).read_text()
        assert "http" not in text and "index-url" not in text.replace("--no-emit-index-url", ""), name


def test_every_rule_logs_and_is_benchmarked():
    """Exceptions are rules that only move or copy a file, and targets without work."""
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        text = path.read_text()
        rules = len(re.findall(r"^\s*output:", text, re.M))  # one without output is only a target
        copies = len(re.findall(r"^\s*shell:\n(?:\s*#.*\n)*\s*\"(?:cp |if |:)", text, re.M))
        for directive in ("log:", "benchmark:", "conda:", "script:"):
            found = len(re.findall(rf"^\s*{directive}", text, re.M))
            assert found == rules - copies, (path.name, directive)
