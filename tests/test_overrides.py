"""Values given with Snakemake's --config are read like those of a grid file, unless they are ambiguous."""

import copy

import pytest
import yaml
from snake import own_lines, snakemake
from snakemake.cli import parse_config
from snakemake.utils import update_config
from test_bad_config import COMPLETE
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.overrides import explained, with_overrides

EVERY_KEY = yaml.safe_load(COMPLETE)


def grid_with(*arguments: str, base: dict = BASE):
    """Return the grid that the Snakefile loads from a grid file and the values of --config."""
    given, values = parse_config(arguments), copy.deepcopy(base)
    update_config(values, given)
    try:
        return load_grid(with_overrides(values, given))
    except UserError as error:
        raise explained(error, given) from None


@pytest.mark.reliability("command-line-values")
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seeds=[7]", {"seeds": [7]}),
        ("seeds=7", {"seeds": [7]}),
        ("seeds=[0, 1,2]", {"seeds": [0, 1, 2]}),
        ("training={lr: 0.03}", {"training": {"lr": 0.03}}),
        ("training={lr: 1e-3, epochs: 2}", {"training": {"lr": 1e-3, "epochs": 2}}),
        ("training={lr: .5}", {"training": {"lr": 0.5}}),
        ("training={'lr': '0.03'}", {"training": {"lr": 0.03}}),
        ("buffers=[20, 50]", {"buffers": [20, 50]}),
        ("head={kind: mlp, hidden: 8}", {"head": {"kind": "mlp", "hidden": 8}}),
        ("sharc={theta: 0.5}", {"sharc": {"theta": {"task_il": 0.5, "class_il": 0.5}}}),
        ("sharc={theta: [0.1, 0.5]}", {"sharc": {"theta": {"task_il": [0.1, 0.5], "class_il": [0.1, 0.5]}}}),
        ("sharc={theta: {task_il: 0}}", {"sharc": {"theta": {"task_il": 0.0}}, "scenarios": ["task_il"]}),
        ("sharc={theta: {mass: 0.9}}", {"sharc": {"theta": {"task_il": {"mass": 0.9}}}}),
        (
            "sharc={theta: {task_il: [{mass: 0.9}, 0.2], class_il: 0.1}}",
            {"sharc": {"theta": {"class_il": 0.1}}},
        ),
        ("sharc={forget: {every: 2, beta: 0.2}}", {"sharc": {"forget": {"every": 2, "beta": 0.2}}}),
        ("sharc={forget: {every: null}}", {"sharc": {"forget": {"every": None}}}),
        (
            "sharc={associative_settings: {mine: {kind: bayespcn, hidden: 4}}}",
            {"sharc": {"associative_settings": {"mine": {"kind": "bayespcn", "hidden": 4}}}},
        ),
        (
            "budget={unit: bytes, count_associative_memory: true}",
            {"budget": {"count_associative_memory": True}},
        ),
        ("budget={split: [1, 2, 3, 4, 0.5]}", {"budget": {"split": [1, 2, 3, 4, 0.5]}}),
        ("budget={split: carry}", {"budget": {"split": "carry"}}),
        ("budget=[{unit: bytes}, {unit: floats}]", {"budget": [{"unit": "bytes"}, {"unit": "floats"}]}),
        ("backbone={views: 2, mean: [0.5, 0.5, 5e-1]}", {"backbone": {"views": 2, "mean": [0.5, 0.5, 0.5]}}),
        ("backbone={name: '7'}", {"backbone": {"name": "7"}}),
        ("backbone={interpolation: null}", {"backbone": {"interpolation": None}}),
        ("backbone={batch_norm: [frozen, adapted]}", {"backbone": {"batch_norm": ["frozen", "adapted"]}}),
        (
            "backbone={pretrain: {epochs: 1, flip: TRUE}}",
            {"backbone": {"pretrain": {"epochs": 1, "flip": True}}},
        ),
        (
            "backbone={pretrain: {dataset: {source: glyphs, classes: 8, digits: false}}}",
            {"backbone": {"pretrain": {"dataset": {"classes": 8, "digits": False}}}},
        ),
        ("datasets={s_digits: {tasks: 2}}", {"datasets": {"s_digits": {"source": "digits", "tasks": 2}}}),
        ("datasets={s_digits: {test_fraction: 0.3}}", {"datasets": {"s_digits": {"test_fraction": 0.3}}}),
        (
            "datasets={7: {source: digits, tasks: 5}}",
            {"datasets": {"7": {"tasks": 5}, "s_digits": {"tasks": 5}}},
        ),
        ("method_settings={gem: {margin: 0.5}}", {"method_settings": {"gem": {"margin": 0.5}}}),
        (
            "studies={x: {seeds: [3], sharc: {theta: 0.2}}}",
            {"studies": {"x": {"seeds": [3], "sharc": {"theta": 0.2}}}},
        ),
        ("studies={x: {title: 7, datasets: [s_digits]}}", {"studies": {"x": {"title": "7"}}}),
        ("recall={noise: [0, 1e-1], side: 8}", {"recall": {"noise": [0, 0.1], "side": 8}}),
        ("cells={per_job: 2}", {"cells": {"per_job": 2}}),
        ("mirror=null", {"mirror": None}),
        ("mirror=", {"mirror": None}),
        ("results_dir=./7", {"results_dir": "./7"}),
        ("storage=[float16, int8]", {"storage": ["float16", "int8"]}),
        ("protocol=paper", {"protocol": ["paper"]}),
    ],
)
def test_values_are_read_and_merged(argument, expected):
    """All other keys of the grid file and of its blocks keep their values."""
    only = {key: value for key, value in expected.items() if key != "scenarios"}
    base = BASE | {k: v for k, v in expected.items() if k == "scenarios"}
    after, before = grid_with(argument, base=base).model_dump(), load_grid(base).model_dump()
    assert _has(after, only), after
    assert {key for key in after if after[key] != before.get(key)} <= set(only)
    for key in set(only) & {"training", "backbone"}:
        named = set(only[key])
        assert {k: v for k, v in after[key].items() if k not in named} == {
            k: v for k, v in before[key].items() if k not in named
        }


def _has(value, expected) -> bool:
    """Return whether a value contains everything expected, with the same types."""
    if isinstance(expected, dict):
        return all(key in value and _has(value[key], inner) for key, inner in expected.items())
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(_has, value, expected))
    return value == expected and isinstance(value, bool | str) == isinstance(expected, bool | str)


@pytest.mark.reliability("command-line-values")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seeds=[a]", r"seeds\.0: .*integer \(got 'a'\)"),
        ("seeds=7,8", r"seeds\.0: .*integer \(got '7,8'\)"),
        ("seeds=[007]", r"seeds\.0: .*integer \(got '007'\)"),
        ("seeds=[1.5]", r"seeds\.0: .*integer"),
        ("seeds=[true]", r"seeds\.0: .*integer \(got 'true'\)"),
        ("seeds=[0x10]", r"seeds\.0: .*integer"),
        ("seeds=[1_000]", r"seeds\.0: .*integer"),
        ("training={lr: inf}", r"training\.lr: .*number \(got 'inf'\)"),
        ("training={lr: nan}", r"training\.lr: .*number"),
        ("training={lr: 0,03}", r"training"),
        ("budget={count_associative_memory: yes}", r"budget\..*boolean \(got 'yes'\)"),
        ("budget={count_associative_memory: 1}", r"budget\..*boolean \(got '1'\)"),
        ("results_dir=7", r"results_dir: .*string \(got 7\)"),
        ("head={kind: 5}", r"head\.kind: .*\(got '5'\)|head\.kind: .*\(got 5\)"),
        ("sede=[7]", r"unknown key 'sede'.*'seeds'"),
        (
            "datasets={s_digits: {source: nothing}}",
            r"datasets\.s_digits\.source: unknown data source 'nothing'",
        ),
        (f"seeds=[{'9' * 5000}]", r"seeds\.0"),
        ("seeds=" + "[" * 30 + "]" * 30, r"more than 100,000 values, or nested deeper than 20"),
    ],
)
def test_ambiguous_override_error_shows_the_right_form(argument, message):
    with pytest.raises(UserError, match=message) as caught:
        grid_with(argument)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 2000
    assert ("with --config; write a list as 'seeds=[7, 8]'" in line) == ("more than" not in line)


@pytest.mark.reliability("command-line-values")
def test_a_grid_file_stays_strict():
    values = BASE | {"seeds": ["7"], "training": {"lr": "0.03"}}
    with pytest.raises(UserError, match="number"):
        load_grid(with_overrides(values, {"seeds": [7]}))
    with pytest.raises(UserError, match=r"seeds\.0: .*integer \(got '7'\)$"):
        grid_with("device=cpu", base=values | {"training": {}})


@pytest.mark.reliability("command-line-values")
def test_every_key_of_a_grid_can_be_given_as_text():
    """A complete grid whose values are all texts, as in --config, equals the typed grid."""

    def as_text(value):
        if isinstance(value, dict):
            return {key: as_text(item) for key, item in value.items()}
        if isinstance(value, list):
            return [as_text(item) for item in value]
        return (
            {None: "null", True: "true", False: "false"}.get(value, str(value))
            if _is_word(value)
            else str(value)
        )

    def _is_word(value):
        return value is None or isinstance(value, bool)

    given = as_text(EVERY_KEY)
    assert load_grid(with_overrides(given, given)) == load_grid(EVERY_KEY)


@pytest.mark.reliability("command-line-values")
@pytest.mark.pipeline
def test_snakemake_applies_overrides(project):
    command = ["--configfile", "config/smoke.yaml", "--dry-run", "--config"]
    run = snakemake(project, *command, "seeds=[7]", "training={lr: 0.03}", "results_dir=results/other")
    assert run.returncode == 0, run.stdout
    assert "results/other/runs.csv" in run.stdout
    run = snakemake(project, *command, "seeds=[a]")
    assert run.returncode == 1
    (line,) = own_lines(run)[-1:]
    assert line.startswith("error: config: seeds.0: ") and "'seeds=[7, 8]'" in line
