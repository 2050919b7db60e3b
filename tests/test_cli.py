"""`python -m sharc_core` and the package's public names, on features made in the test."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from factories import make_features

import sharc_core
from sharc_core.__main__ import main

ROOT = Path(__file__).parents[1]
GRID = {
    "datasets": {"s_digits": {"source": "digits", "tasks": 5}},
    "backbone": {"arch": "resnet_small", "weights": "pretrain", "image_size": 32},
    "methods": ["sgd", "er"],
    "buffers": [20, 50],
}


@pytest.fixture
def grid_file(tmp_path, monkeypatch):
    """Write a grid whose features need no backbone, because ten toy classes replace the digits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sharc_core.stages.build.ensure_features",
        lambda *a, **k: make_features(classes=10, separation=3.0),
    )
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID))
    return path


def run(grid_file, *extra: str) -> int:
    return main(["run", "--config", str(grid_file), "--dataset", "s_digits", "--method", "er", *extra])


@pytest.mark.slow
def test_run_prints_the_accuracy_matrix(grid_file, capsys):
    assert (
        run(grid_file, "--variant", "sharc", "--buffer", "50", "--scenario", "class_il", "--seed", "0") == 0
    )
    out = capsys.readouterr().out
    assert "er-sharc-m50-floats-theta0.4-gradient-modern_hopfield class_il, seed 0" in out
    rows = [line.split() for line in out.splitlines() if line[:1].strip().isdigit() or line.startswith("  ")]
    numbers = [row for row in rows if len(row) == 6 and row[0].isdigit()]
    assert len(numbers) == 5, out
    assert "ACC" in out


def test_theta_and_memory_can_be_chosen(grid_file, capsys):
    arguments = [
        "--variant",
        "sharc",
        "--theta",
        "0.6",
        "--associative-memory",
        "mean",
        "--scenario",
        "task_il",
    ]
    assert run(grid_file, *arguments) == 0
    assert "er-sharc-m20-floats-theta0.6-gradient-mean task_il" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--dataset", "s_digit"], "error: unknown data set 's_digit' (did you mean 's_digits'?)"),
        (["--method", "err"], "error: config: methods: unknown method 'err'"),
        (["--variant", "shark"], "error: config: variants.0: "),
        (["--buffer", "2"], "error: config: buffers: 2 is smaller than the 5 tasks"),
        (["--scenario", "clas_il"], "error: "),
        (["--backbone", "vgg"], "error: unknown backbone 'vgg'"),
        (["--theta", "1.5", "--variant", "sharc"], "error: config: sharc.theta"),
        (["--buffer", "0"], "error: config: buffers.0: input should be greater than or equal to 1 (got 0)"),
        (["--method", "sgd", "--variant", "sharc"], "error: --variant sharc: sgd has no memory"),
        (["--method", "sgd", "--buffer", "20"], "error: --buffer 20: sgd has no memory"),
        (["--theta", "0.5"], "error: --theta 0.5: --variant plain does not use it"),
        (["--associative-memory", "mean"], "error: --associative-memory mean: --variant plain does not"),
        (
            ["--associative-memory", "", "--variant", "sharc"],
            "error: config: sharc.associative_memory: unknown",
        ),
    ],
)
def test_bad_arguments_are_one_line(grid_file, capsys, extra, message):
    assert run(grid_file, *extra) == 1
    err = capsys.readouterr().err
    assert err.startswith(message), err
    assert len(err.strip().splitlines()) == 1


def test_theta_must_be_given_for_the_scenario(grid_file, capsys):
    values = GRID | {"sharc": {"theta": {"task_il": 0.8}}, "scenarios": ["task_il"]}
    grid_file.write_text(yaml.safe_dump(values))
    assert run(grid_file, "--variant", "sharc") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: the grid's sharc.theta has no value for scenario class_il"), err
    assert "--theta" in err
    assert run(grid_file, "--variant", "sharc", "--theta", "0.4") == 0
    assert run(grid_file) == 0, "plain replay needs none"


def test_lists_are_narrowed_to_their_first(grid_file, capsys):
    axes = {"theta": [{"mass": 0.9}, 0.5], "associative_memory": ["mean", "none"]}
    budgets = [{"unit": "slots"}, {"unit": "floats"}]
    grid_file.write_text(
        yaml.safe_dump(GRID | {"sharc": axes, "budget": budgets, "storage": ["int8", "float16"]})
    )
    assert run(grid_file, "--variant", "sharc") == 0
    assert "er-sharc-m20-slots-int8-mass0.9-gradient-mean class_il" in capsys.readouterr().out


def test_a_method_without_memory_runs(grid_file, capsys):
    assert run(grid_file, "--method", "sgd") == 0
    assert "s_digits sgd class_il, seed 0" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["ncm", "slda", "ridge", "fecam"])
def test_a_closed_form_method_runs(grid_file, capsys, method):
    """It needs no buffer, and the output ends with the bytes of the learner."""
    assert run(grid_file, "--method", method) == 0
    out = capsys.readouterr().out
    assert f"s_digits {method} class_il, seed 0" in out
    *_, row, acc, _, costs = out.splitlines()
    assert row.split()[0] == "5" and float(acc.split()[1]) > 80
    assert costs.startswith("learner ") and "samples" not in costs


def test_a_head_that_a_method_cannot_take_is_one_line_before_any_job(grid_file, capsys):
    grid_file.write_text(yaml.safe_dump(GRID | {"methods": ["er", "ncm"], "head": {"kind": "mlp"}}))
    assert main(["check", "--config", str(grid_file)]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "error: config: head.kind mlp cannot be combined with method ncm: use head.kind linear, "
        "or take ncm out of methods\n"
    )
    assert not captured.out
    grid_file.write_text(yaml.safe_dump(GRID | {"head": {"kind": "mlp"}}))
    assert main(["check", "--config", str(grid_file)]) == 0
    capsys.readouterr()
    assert run(grid_file, "--method", "slda") == 1
    assert "head.kind mlp cannot be combined with method slda" in capsys.readouterr().err


def test_check_prints_the_number_of_cells(grid_file, capsys):
    assert main(["check", "--config", str(grid_file)]) == 0
    assert "7 cells, 35 training runs" in capsys.readouterr().out


def test_public_names_of_the_package_resolve():
    for name in sharc_core.__all__:
        assert getattr(sharc_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sharc_core.nonsense  # noqa: B018


def test_importing_the_package_does_not_import_torch():
    code = "import sys, sharc_core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_readme_grid_example_loads():
    """The README's example of a grid file is valid."""
    from sharc_core.grid.loading import load_grid

    readme = (ROOT / "README.md").read_text()
    block = readme.split("## Use your own images")[1].split("python -m sharc_core")[0]
    values = yaml.safe_load("\n".join(line[4:] for line in block.splitlines() if line.startswith("    ")))
    load_grid(values)


def test_every_config_key_is_documented():
    """docs/config.md names every key of every block, with its default."""
    from sharc_core.backbones import BackboneConfig
    from sharc_core.grid.blocks import BudgetConfig, Sharc
    from sharc_core.grid.cell import Device, HeadConfig, Training
    from sharc_core.grid.models import GPU_BATCH, CellsConfig, DatasetConfig, Grid

    text = (ROOT / "docs/config.md").read_text()
    blocks = (DatasetConfig, Training, HeadConfig, Sharc, BudgetConfig, BackboneConfig, CellsConfig)
    for model in (Grid, *blocks):
        for key, field in model.model_fields.items():
            assert f"`{key}`" in text, f"{model.__name__}.{key} is not in docs/config.md"
            if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
                stated = re.search(rf"`{key}` (\| )?{re.escape(str(field.default))}\b", text)
                assert stated, f"default of {model.__name__}.{key}"
    assert f"| `per_job` | 1 on the CPU, else {GPU_BATCH} |" in text
    block = text.split("## `cells`")[1].split("##")[0]
    assert f"| `device` | `{CellsConfig().device}` |" in block
    for device in get_args(Device):
        assert f"`{device}`" in block


def test_every_method_setting_is_documented():
    """The table of docs/config.md has a row with the keys of every method that has any."""
    from sharc_core.methods import METHODS

    block = (ROOT / "docs/config.md").read_text().split("\n## `method_settings`")[1].split("\n## ")[0]
    rows = {line.split("|")[1].strip(" `"): line for line in block.splitlines() if line.startswith("| `")}
    for name in METHODS.names():
        for key in METHODS.get(name).Settings.model_fields:
            assert f"`{key}`" in rows[name], f"method_settings.{name}.{key} is not in docs/config.md"


def test_documented_pretraining_defaults():
    from sharc_core.backbones import PretrainConfig

    block = (ROOT / "docs/config.md").read_text().split("`pretrain`: supervised")[1].split("##")[0]
    defaults = PretrainConfig()
    for key in type(defaults).model_fields:
        assert f"`{key}`" in block
    assert (
        f"{defaults.dataset['classes']} glyph classes from `first_class` {defaults.dataset['first_class']}, "
        f"`digits` {str(defaults.dataset['digits']).lower()}" in block
    )
    for key in ("epochs", "batch_size", "lr", "seed"):
        assert f"| `{key}` | {getattr(defaults, key)} |" in block
    assert f"{defaults.weight_decay:g}, {defaults.label_smoothing:g}" in block
    assert f"{defaults.max_shift:g}, false" in block
