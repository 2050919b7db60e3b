"""`~` and variables in the paths of a grid file are expanded once at any key, or refused with one line."""

import json
import os
import re

import pytest
import yaml
from snake import own_lines, snakemake
from test_config import BASE, changed

from sharc_core.__main__ import main
from sharc_core.common.errors import UserError
from sharc_core.datasets import SOURCES
from sharc_core.grid.expansion import PATHS, expanded
from sharc_core.grid.loading import load_config, load_grid

VARIABLES = {"SCRATCH": "/scratch/me", "a_B9": "x y", "HERE": "~/here", "MONEY": "/a$SCRATCH", "EMPTY": ""}


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.reliability("variables-in-paths")
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~", "/home/me"),
        ("~/", "/home/me/"),
        ("~/sharc", "/home/me/sharc"),
        ("~root/x", os.path.expanduser("~root/x")),
        ("$SCRATCH/data", "/scratch/me/data"),
        ("${SCRATCH}/data", "/scratch/me/data"),
        ("${SCRATCH}data", "/scratch/medata"),
        ("a/$a_B9/b", "a/x y/b"),
        ("$SCRATCH$SCRATCH", "/scratch/me/scratch/me"),
        ("$HERE/x", "/home/me/here/x"),
        ("$MONEY/x", "/a$SCRATCH/x"),
        ("$$SCRATCH", "$SCRATCH"),
        ("$$$SCRATCH", "$/scratch/me"),
        ("a/~/b", "a/~/b"),
        ("a~", "a~"),
        ("./~x", "./~x"),
        ("x$", "x$"),
        ("5$ 7$1 $(touch x) $-", "5$ 7$1 $(touch x) $-"),
        ("%HOME%", "%HOME%"),
        ("ü ~ $$", "ü ~ $"),
    ],
)
def test_every_path_is_expanded(path, expected):
    values = {
        "data_dir": path,
        "results_dir": path,
        "mirror": path,
        "datasets": {"path": {"source": "image_folder", "path": path}, "b": {"path": path}},
        "backbone": [{"weights": path, "pretrain": {"dataset": {"path": path}}}, {"weights": "pretrain"}],
        "studies": {"weights": {"title": path, "datasets": ["~"]}},
        "methods": ["~", "$NOT_SET"],
    }
    before = json.dumps(values)
    result, _ = expanded(values, VARIABLES)
    assert json.dumps(values) == before
    expected_values = json.loads(before)
    expected_values |= dict.fromkeys(("data_dir", "results_dir", "mirror"), expected)
    for block in (
        *expected_values["datasets"].values(),
        expected_values["backbone"][0]["pretrain"]["dataset"],
    ):
        block["path"] = expected
    expected_values["backbone"][0]["weights"] = expected
    assert result == expected_values


@pytest.mark.reliability("variables-in-paths")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("$NOT_SET/x", "the variable NOT_SET in '$NOT_SET/x' is not set: set it, or write $$"),
        ("${NOT_SET}", "the variable NOT_SET in '${NOT_SET}' is not set"),
        ("a/$SCRATCHY", "the variable SCRATCHY in 'a/$SCRATCHY' is not set"),
        ("$EMPTY/x", "the variable EMPTY in '$EMPTY/x' is empty"),
        ("${EMPTY}x", "the variable EMPTY in '${EMPTY}x' is empty"),
        ("${SCRATCH:-/tmp}", "'${SCRATCH:-/tmp}' is not a variable: write $NAME, ${NAME}"),
        ("${}", "'${}' is not a variable"),
        ("${a b}", "'${a b}' is not a variable"),
        ("${1}", "'${1}' is not a variable"),
        ("~nobody-of-that-name/x", "there is no home folder '~nobody-of-that-name': write ./~nobody"),
        ("~\x1b[31m", r"there is no home folder '~\x1b[31m'"),
    ],
)
@pytest.mark.parametrize("key", ["data_dir", "backbone.0.weights", "datasets.mine.path"])
def test_failed_expansion_names_key_and_variable(path, message, key):
    top, *below = key.split(".")
    value = path
    for part in reversed(below):
        value = [{"weights": path}] if part == "0" else value if isinstance(value, list) else {part: value}
    with pytest.raises(UserError) as caught:
        expanded({top: value}, VARIABLES)
    assert str(caught.value).startswith(f"config: {key}: {message}")
    assert str(caught.value).isprintable()


def test_the_variables_that_were_used_are_known():
    assert expanded({"data_dir": "$SCRATCH/${a_B9}/$$HERE", "methods": ["$HERE"]}, VARIABLES)[1] == {
        "SCRATCH",
        "a_B9",
    }


def test_self_referencing_alias_terminates():
    values = {"datasets": {}, "data_dir": "~"}
    values["datasets"]["x"] = values
    assert expanded(values)[0]["data_dir"] == "/home/me"


def test_every_text_of_a_data_set_is_a_path_or_known_to_be_none():
    """A new key of a source that holds a path must be added to PATHS."""
    for name in SOURCES.names():
        for key, field in SOURCES.get(name).Settings.model_fields.items():
            if field.annotation in (str, str | None):
                assert key in PATHS | {"checksum", "test_split"}, f"{name}: {key}"


@pytest.mark.reliability("variables-in-paths")
def test_a_grid_file_has_the_folders_themselves_and_a_hash_without_them(tmp_path, monkeypatch):
    hashes = set()
    for user in ("me", "you"):
        monkeypatch.setenv("HOME", str(tmp_path / user))
        monkeypatch.setenv("SCRATCH", str(tmp_path / user / "scratch"))
        values = BASE | {
            "data_dir": "$SCRATCH/data",
            "results_dir": "~/results",
            "mirror": "${SCRATCH}",
            "datasets": {"s": {"source": "image_folder", "path": "~/pics", "tasks": 5}},
            "backbone": {"arch": "resnet_small", "weights": "~/w.safetensors", "image_size": 32},
        }
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
        grid = load_config(tmp_path / "grid.yaml")
        assert (
            grid.data_dir == f"{tmp_path}/{user}/scratch/data" and grid.mirror == f"{tmp_path}/{user}/scratch"
        )
        assert grid.source("s").settings.path == f"{tmp_path}/{user}/pics"
        assert grid.backbone.network_name == "resnet_small-w"
        hashes.add(grid.config_hash)
    assert len(hashes) == 1
    other = values["backbone"] | {"weights": "~/v.safetensors"}
    assert load_grid(expanded(values | {"backbone": other})[0]).config_hash not in hashes


def test_check_expands(tmp_path, monkeypatch, capsys):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(changed("data_dir", "$NOT_SET/data")))
    assert main(["check", "--config", str(tmp_path / "grid.yaml")]) == 1
    assert capsys.readouterr().err.startswith("error: config: data_dir: the variable NOT_SET in ")


@pytest.mark.reliability("variables-in-paths")
@pytest.mark.pipeline
@pytest.mark.parametrize("given", ["file", "command line"])
def test_snakemake_expands_before_any_job(project, tmp_path, given):
    """Paths are expanded in a file of --configfile, which Snakemake reads itself, and in --config."""
    grid = yaml.safe_load((project / "config/smoke.yaml").read_text())
    paths = {"data_dir": "~/$PART", "results_dir": "${PART}/results"}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid | (paths if given == "file" else {})))
    more = [] if given == "file" else ["--config", *(f"{key}={value}" for key, value in paths.items())]
    command = ["--configfile", str(tmp_path / "grid.yaml"), "--dry-run", *more]
    environment = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path)}
    run = snakemake(project, *command, environment=environment)
    assert run.returncode == 1
    assert re.match(
        r"error: config: (data|results)_dir: the variable PART in .* is not set: .*\$$", own_lines(run)[0]
    )
    run = snakemake(project, *command, environment=environment | {"PART": "part"})
    assert run.returncode == 0, run.stdout
    assert f"{tmp_path}/home/part/prepared/digits" in run.stdout
    assert "part/results/runs.csv" in run.stdout
    assert not (project / "~").exists() and not (project / "$PART").exists()
