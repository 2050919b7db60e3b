"""Folders of any name: `make` and Snakemake work in them, or fail with one line before anything runs."""

import os
import shlex
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake
import yaml
from snake import ROOT, copy_project, own_lines, variables
from snake import snakemake as run_snakemake
from snakemake.utils import format as snakemake_format

from sharc_core.common.errors import UserError
from sharc_core.planning.setup import check_module, shell_safe

NAMES = [
    "a b", " a  b ", "ü Bär", "日本", "it's", 'a "b"', "a$b", "$HOME", "$(touch ran)",
    "`touch ran`", "a&b", "a;b", "a#b", "a%b", "-a", "--help", "~a", "a*b?", "a[b]", "a(b)",
    "a\\b", "a!b", "a|b", "a=b", "a,b@c+d", "a\nb", "a\tb", "$$", "%.o", "..a",
]  # fmt: skip
STAND_IN = """#!/bin/sh
# what was asked of it, an argument a line
printf '%s\\n' "$@" >> "$LOG"
if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
"""


def make(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    """Run `make` with a fake Python that writes its arguments to the file log."""
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    environment |= {"LOG": str(folder / "log")} | more
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def clone(folder: Path) -> Path:
    """Copy the files that `make` reads, and the fake Python, to a folder."""
    (folder / "envs").mkdir(parents=True)
    for name in ("Makefile", "envs/install.sh", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "python3").write_text(STAND_IN)
    (folder / "python3").chmod(0o755)
    return folder


@pytest.mark.reliability("odd-folders")
@pytest.mark.slow
@pytest.mark.parametrize("where", ["clone", "environment", "both"])
@pytest.mark.parametrize("name", NAMES)
def test_make_takes_any_name_of_a_folder(tmp_path, name, where):
    folder = clone(tmp_path / ("clone" if where == "environment" else name) / "x")
    environment = (
        {} if where == "clone" else {"VENV": name if where == "both" else str(tmp_path / "envs" / name)}
    )
    if name[0] == "-" and where == "both":
        environment["VENV"] = f"./{name}"  # otherwise the fake Python's shell takes it for an option
    run = make(folder, PYTHON="./python3", **environment)
    assert run.returncode == 0, run.stderr
    place = folder / environment.get("VENV", ".venv")
    assert (place / ".installed").exists()
    said = (folder / "log").read_text()
    assert (
        "-m\nvenv\n" in said
        and "-m\npip\ninstall\n" in said
        and said.endswith("-m\nsnakemake\n--cores\nall\n")
    )
    (folder / "log").unlink()
    assert make(folder, PYTHON="./python3", **environment).returncode == 0
    assert (folder / "log").read_text() == "-m\nsnakemake\n--cores\nall\n", "installed once"
    assert [path.name for path in tmp_path.rglob("ran")] == []
    assert make(folder, "clean", **environment).returncode == 0 and not place.exists()


def test_a_newer_lock_file_installs_again(tmp_path):
    folder = clone(tmp_path / "a b")
    make(folder, PYTHON="./python3")
    os.utime(folder / ".venv/.installed", (0, 0))
    (folder / "log").unlink()
    assert make(folder, PYTHON="./python3").returncode == 0
    assert "-m\npip\n" in (folder / "log").read_text()


def test_the_interpreter_may_have_a_blank_or_arguments(tmp_path):
    folder = clone(tmp_path / "x")
    (folder / "my python").write_text(STAND_IN)
    (folder / "my python").chmod(0o755)
    for number, python in enumerate(("./my python", "env ./python3")):
        run = make(folder, "installed", PYTHON=python, VENV=f"env{number}")
        assert run.returncode == 0 and (folder / f"env{number}/.installed").exists(), run.stderr


@pytest.mark.reliability("unusable-folders")
@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("a:b", {}, "Python makes none in a path with a colon"),
        (":", {}, "Python makes none in a path with a colon"),
        ("a{b}", {}, "{ } < > mean something to Snakemake"),
        ("a<b", {}, "{ } < > mean something to Snakemake"),
        ("a>b", {}, "{ } < > mean something to Snakemake"),
        ("a{\nb", {}, "{ } < > mean something to Snakemake"),
        ("fine", {"VENV": "a:b"}, "Python makes none in a path with a colon"),
        ("fine", {"VENV": "/x/a:b"}, "Python makes none in a path with a colon"),
        ("fine", {"VENV": ""}, "VENV is empty"),
        ("fine", {"PYTHON": "no-such-python"}, "no-such-python is no Python 3.11 or newer"),
        ("fine", {"PYTHON": "false"}, "false is no Python 3.11 or newer"),
    ],
)
def test_unsupported_names_give_a_one_line_error_before_installing(tmp_path, name, environment, message):
    folder = clone(tmp_path / name)
    run = make(folder, **({"PYTHON": "./python3"} | environment))
    assert run.returncode != 0
    lines = [
        line
        for line in run.stderr.splitlines()
        if not line.startswith("make: ***") and "not found" not in line
    ]
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], run.stderr
    assert (
        not list(folder.rglob(".installed")) and "pip" not in (folder / "log").read_text(errors="ignore")
        if (folder / "log").exists()
        else True
    )


# --- Snakemake's jobs -------------------------------------------------------------------------------


@pytest.mark.reliability("odd-folders")
@pytest.mark.parametrize("name", [*NAMES, "a:b", "a{b}", "a<b"])
def test_the_interpreter_of_a_job_is_quoted(tmp_path, name):
    """Format the command as Snakemake does and run it with Snakemake's shell."""
    interpreter = tmp_path / name / "bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text('#!/bin/sh\nprintf "%s" "$1"\n')
    interpreter.chmod(0o755)
    py_exec, fname = shell_safe(str(interpreter), submits=False), ".snakemake/scripts/x y.py"
    command = snakemake_format("{py_exec} {fname:q}", py_exec=py_exec, fname=fname)
    run = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, fname), run.stderr
    assert py_exec == str(interpreter) and os.path.dirname(py_exec) == str(interpreter.parent)
    assert f"{py_exec}" == shlex.quote(str(interpreter))


def test_snakemake_still_formats_the_interpreter_into_its_commands():
    """shell_safe relies on this. Remove it once Snakemake quotes the interpreter itself."""
    text = (Path(snakemake.__file__).parent / "script/__init__.py").read_text()
    assert '"{py_exec} {fname:q}", py_exec=py_exec' in text and "py_exec = sys.executable" in text


@pytest.mark.reliability("unusable-folders")
@pytest.mark.parametrize("name", ["a b", "it's", "a$b", "a&b", "a#b", "~a", "a*", "a\nb", "a;b", "a(b)"])
def test_cluster_jobs_need_a_plain_interpreter_path(name):
    with pytest.raises(UserError, match="jobs on a cluster cannot be started with .*VENV=") as caught:
        shell_safe(f"/home/{name}/.venv/bin/python", submits=True)
    assert str(caught.value).isprintable()
    assert shell_safe("/home/a-b_c.d,e+f@g%h=i/bin/python", submits=True)


@pytest.mark.reliability("odd-folders")
@pytest.mark.pipeline
def test_a_cell_is_trained_by_an_environment_in_a_folder_with_blanks(project, tmp_path):
    """Start Snakemake as users do, without forks, with interpreter and project below such a folder."""
    folder = tmp_path / 'Bär\'s "own" $HOME & #1'
    copy_project(folder)
    venv.create(folder / "my env", symlinks=True)
    (packages,) = (folder / "my env").glob("lib/python*/site-packages")
    (packages / "these.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    grid = yaml.safe_load((folder / "config/smoke.yaml").read_text())
    grid |= {"methods": ["sgd"], "seeds": [0], "data_dir": str(project / "data")}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    python = str(folder / "my env/bin/python")
    command = [
        python,
        "-m",
        "snakemake",
        "results/smoke/runs.csv",
        "--cores",
        "1",
        "--configfile",
        "grid.yaml",
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "results/smoke/runs.csv").exists()


# --- another workflow's module ----------------------------------------------------------------------


def module(path_modifier=(None, None), parent=None) -> SimpleNamespace:
    paths = SimpleNamespace(prefix=path_modifier[0], _prefix_replacements=path_modifier[1])
    return SimpleNamespace(path_modifier=paths, parent_modifier=parent, namespace="sharc")


@pytest.mark.parametrize("paths", [("pre/", None), (None, {"results/": "out/"})])
def test_a_prefix_is_refused(paths):
    check_module(module(parent=module()))
    for modifier in (module(paths), module(parent=module(paths))):
        with pytest.raises(
            UserError, match="module sharc: prefix and replace_prefix are not supported, .*data_dir"
        ):
            check_module(modifier)


PARENT = """
configfile: "parent.yaml"


{own}


module sharc:
    snakefile: "{snakefile}"
    {config}


use rule * from sharc{names}
"""
OWN = """
rule all:
    input:
        "mine.txt",


rule data:
    output:
        "mine.txt",
    shell:
        "echo x > {output}"
"""


def parent(project: Path, folder: Path, **changes: str) -> None:
    """Write another workflow that uses the project as a module."""
    parts = {
        "own": OWN,
        "config": 'config: config["bench"]',
        "names": " as sharc_*",
        "snakefile": project / "Snakefile",
    }
    (folder / "Snakefile").write_text(PARENT.format(**(parts | changes)))
    grid = yaml.safe_load((project / "config/smoke.yaml").read_text())
    grid |= {"methods": ["sgd"], "seeds": [0], "data_dir": str(project / "data"), "results_dir": "out"}
    (folder / "parent.yaml").write_text(yaml.safe_dump({"bench": grid, "other": 1}))


TRIGGERS = ("--rerun-triggers", "params", "input", "software-env")


@pytest.mark.reliability("module")
@pytest.mark.pipeline
def test_another_workflow_uses_this_one_as_a_module(project, tmp_path):
    parent(project, tmp_path)
    done = run_snakemake(tmp_path, "out/runs.csv", "mine.txt", *TRIGGERS)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out/runs.csv").exists() and (tmp_path / "mine.txt").exists()
    assert "rule sharc_cell:" in done.stdout and "rule sharc_features:" not in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and path.name[0] != ".") == [
        "out"
    ]


@pytest.mark.reliability("module")
@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"all", "data"}),  # the first rule of the other workflow is its default target
        ({"own": ""}, {"sharc_all", "sharc_report", "sharc_cell"}),
        ({"own": "", "names": ""}, {"all", "report", "cell"}),
        ({"own": "", "config": ""}, {"sharc_all", "sharc_document"}),
        ({"names": " exclude all, data"}, {"all", "data"}),
        ({"names": " as *_of_bench"}, {"all", "data"}),
    ],
)
def test_module_forms_give_the_expected_rules(project, tmp_path, changes, expected):
    parent(project, tmp_path, **changes)
    run = run_snakemake(tmp_path, "--dry-run", *TRIGGERS)
    assert run.returncode == 0, run.stdout
    planned = {
        line.split()[1].rstrip(":")
        for line in run.stdout.splitlines()
        if line.startswith(("rule ", "localrule "))
    }
    assert expected <= planned and ("all" in expected) == ("all" in planned), planned


@pytest.mark.reliability("module")
@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": 'config: config["bench"]\n    prefix: "pre"'},
            "error: module sharc: prefix and replace_prefix",
        ),
        ({"config": "config: config"}, "error: config: unknown key 'bench'; valid: architectures, "),
        ({"config": "config: dict()"}, "error: config: "),
    ],
)
def test_what_a_module_cannot_do_is_one_line(project, tmp_path, changes, message):
    parent(project, tmp_path, **changes)
    run = run_snakemake(tmp_path, "--dry-run")
    assert run.returncode == 1
    assert own_lines(run)[-1].startswith(message), run.stdout
