"""The study `tune`: its split, its trials, what it chooses, and grids that take what was chosen."""

import importlib.util
import json
import math
import random
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml
from factories import make_cell, make_features
from snake import ROOT, snakemake
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.features.cache import Features
from sharc_core.grid.cell import HeadConfig
from sharc_core.grid.loading import load_grid
from sharc_core.grid.tuned import cell_digest, concerns, tuned_note, value_of, with_values
from sharc_core.grid.unroll import cells
from sharc_core.learning.learner import run_cell
from sharc_core.studies.tune import Tune
from sharc_core.studies.tune.measure import best_trial, held_out, run_tuning, with_validation
from sharc_core.studies.tune.search import all_values, drawn, run_trials
from sharc_core.studies.tune.settings import COLUMNS, Range, TuneJob, TuneSettings
from sharc_core.studies.tune.table import chosen_settings, sentence, summary, trials

RATES = [0.001, 0.01, 0.1]


def toy_features(**values) -> Features:
    made = vars(make_features(**values))
    return Features(**{key: value for key, value in made.items() if key not in ("tested", "encoded")})


def toy_cells(**values) -> list:
    grid = load_grid({**BASE, "methods": ["sgd", "er"], "buffers": [20], **values})
    return [
        cell.model_copy(update={"stream": cell.stream.model_copy(update={"tasks": 3})})
        for cell in cells(grid)
    ]


def job_of(cell, **settings) -> TuneJob:
    tune = TuneSettings.model_validate({"settings": {"training.lr": RATES}, "trials": 4} | settings)
    return TuneJob(cell=cell.model_dump(mode="json"), tune=tune)


# --- the split -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5])
def test_the_same_share_of_each_class_is_held_out(share):
    labels = torch.arange(4).repeat_interleave(torch.tensor([2, 3, 40, 55]))
    mask = held_out(labels, share, seed=0)
    counts = labels[mask].bincount(minlength=4)
    for count, size in zip(counts.tolist(), [2, 3, 40, 55], strict=True):
        assert 1 <= count < size and abs(count - share * size) <= 1
    assert torch.equal(mask, held_out(labels, share, seed=0))
    assert not torch.equal(mask, held_out(labels, share, seed=1))


def test_a_class_with_one_image_is_refused():
    with pytest.raises(UserError, match=r"^tune: class 1 has one training image, so none can be held out$"):
        held_out(torch.tensor([0, 0, 1]), 0.1, 0)


def test_trials_neither_train_on_held_out_images_nor_see_test_images():
    """Held-out training images and all test images can be anything without an effect on training."""
    features, (cell, *_) = toy_features(), toy_cells(methods=["er"])
    mask = held_out(features.train_labels, 0.2, 0)
    subset = with_validation(features, mask)
    assert torch.equal(subset.test_labels, features.train_labels[mask])
    document = run_cell(subset, cell)
    spoilt = features.train_pooled.clone(), features.train_maps.clone()
    spoilt[0][mask], spoilt[1][mask] = 1e3, 1e3
    other = Features(
        **{
            **vars(features),
            "train_pooled": spoilt[0],
            "train_maps": spoilt[1],
            "test_pooled": features.test_pooled + 1e3,
        }
    )
    changed = with_validation(other, mask)
    again = run_cell(Features(**{**vars(changed), "test_pooled": subset.test_pooled}), cell)
    assert again["matrix"] == document["matrix"]


def test_validation_equals_a_data_set_without_the_held_out_images():
    features, (cell, *_) = toy_features(), toy_cells(methods=["er"])
    mask = held_out(features.train_labels, 0.2, 0)
    rest = Features(
        **{
            **vars(features),
            "train_maps": features.train_maps[~mask],
            "train_pooled": features.train_pooled[~mask],
            "train_labels": features.train_labels[~mask],
            "test_maps": features.train_maps[mask],
            "test_pooled": features.train_pooled[mask],
            "test_labels": features.train_labels[mask],
        }
    )
    assert run_cell(with_validation(features, mask), cell)["matrix"] == run_cell(rest, cell)["matrix"]


# --- trials --------------------------------------------------------------------------------------------


def test_names_and_values_of_settings():
    grid = load_grid({**BASE, "methods": ["ncm", "sgd", "derpp"], "buffers": [20]})
    by_id = {cell.id: cell for cell in cells(grid)}
    ncm, sgd = by_id["ncm"], by_id["sgd"]
    plain = by_id["derpp-plain-m20-floats"]
    sharc = next(cell for cell in by_id.values() if cell.variant == "sharc" and cell.theta == 0.4)
    names = ["training.lr", "training.replay_batch_size", "method_settings.derpp.alpha", "sharc.theta"]
    concerned = {cell.id: [concerns(cell, name) for name in names] for cell in (ncm, sgd, plain, sharc)}
    assert list(concerned.values()) == [
        [False] * 4,
        [True, False, False, False],
        [True, True, True, False],
        [True] * 4,
    ]
    values = {"training.lr": 0.5, "method_settings.derpp.alpha": 0.7, "sharc.theta": 0.25}
    changed = with_values(sharc, values)
    assert {name: value_of(changed, name) for name in values} == values
    assert changed.training.batch_size == sharc.training.batch_size
    assert changed.method_settings["beta"] == sharc.method_settings["beta"]
    assert with_values(changed, {name: value_of(sharc, name) for name in values}) == sharc


def test_the_scale_of_a_cosine_head_is_a_setting():
    linear = toy_cells(methods=["er"])[0]
    cosine = linear.model_copy(update={"head": HeadConfig(kind="cosine")})
    assert concerns(cosine, "head.scale") and not concerns(linear, "head.scale")
    assert not concerns(cosine.model_copy(update={"method": "ncm"}), "head.scale")
    assert value_of(cosine, "head.scale") == 10.0
    assert with_values(cosine, {"head.scale": 20.0}).head.scale == 20.0
    with pytest.raises(UserError, match=r"head.scale cannot be 0"):
        with_values(cosine, {"head.scale": 0})


def test_trials_begin_with_the_cells_own_settings_and_repeat():
    cell = toy_cells(methods=["derpp"])[0]
    space = {
        "training.lr": Range(low=0.001, high=1.0, log=True),
        "training.replay_batch_size": Range(low=2, high=4),
        "method_settings.derpp.alpha": [0.1, 0.5],
    }
    tune = TuneSettings(settings=space, trials=7)
    seen: list[dict] = []
    results = run_trials(cell, tune, lambda values: seen.append(values) or 0.0)
    assert [values for values, _ in results] == seen and len(seen) == 7
    assert seen[0] == {name: value_of(cell, name) for name in space}
    for values in seen[1:]:
        assert 0.001 <= values["training.lr"] <= 1 and values["training.replay_batch_size"] in (2, 3, 4)
        with_values(cell, values)
    other = toy_cells(methods=["derpp"])[1]
    assert [values for values, _ in run_trials(other, tune, lambda _: 0.0)][1:] == seen[1:], "both variants"


def test_all_methods_and_variants_try_the_same_draws_of_a_setting():
    space = {
        "training.lr": Range(low=0.001, high=1.0, log=True),
        "method_settings.derpp.alpha": Range(low=0.1, high=1.0),
        "method_settings.er.mean": ["separate", "joint"],
        "sharc.theta": Range(low=0.2, high=0.9),
    }
    tune, tried = TuneSettings(settings=space, trials=6), []
    for cell in toy_cells(methods=["er", "derpp"]):
        tried.append([values for values, _ in run_trials(cell, tune, lambda _: 0.0)][1:])
    assert len(tried) > 3 and len({len(values[0]) for values in tried}) > 1, "spaces of several sizes"
    for name in space:
        draws = {tuple(v[name] for v in values) for values in tried if name in values[0]}
        assert len(draws) == 1, name
    assert list(drawn(space, 0)) != list(drawn(space, 1))


def test_draws_are_uniform_in_the_logarithm_or_over_integers():
    space = {"a": Range(low=0.001, high=1.0, log=True), "b": Range(low=1, high=3), "c": [0, 1]}
    values = [next(drawn(space, seed)) for seed in random.Random(0).sample(range(10**6), 3000)]
    below = sum(v["a"] < 0.001**0.5 for v in values) / len(values)
    assert abs(below - 0.5) < 0.03
    for number in (1, 2, 3):
        assert abs(sum(v["b"] == number for v in values) / len(values) - 1 / 3) < 0.03


def test_all_combinations_are_tried_where_they_fit():
    cell = toy_cells(methods=["derpp"])[0]
    space = {"training.lr": [0.1, 0.2], "method_settings.derpp.alpha": [0.1, 0.3]}
    for sampler in ("grid", "random"):
        tune = TuneSettings(settings=space, trials=5, sampler=sampler)
        tried = [values for values, _ in run_trials(cell, tune, lambda _: 0.0)]
        # the cell's own settings are one of the four
        assert len(tried) == 4 and all(values in tried for values in all_values(space))


def test_optuna_is_asked_and_told():
    pytest.importorskip("optuna")
    cell = toy_cells(methods=["sgd"])[0]
    tune = TuneSettings(
        settings={"training.lr": {"low": 0.001, "high": 1.0, "log": True}}, trials=25, sampler="tpe"
    )

    def score(values):
        lr = values["training.lr"]
        return math.nan if lr > 0.9 else -abs(math.log(lr) - math.log(0.02))

    results = run_trials(cell, tune, score)
    assert results == run_trials(cell, tune, score) and len(results) == 25
    values, best = max(results[1:], key=lambda pair: -math.inf if math.isnan(pair[1]) else pair[1])
    assert best > -0.5, values


@pytest.mark.reliability("bad-tuning")
def test_optuna_is_missed_before_any_job(monkeypatch):
    grid, find = load_grid(BASE | {"tune": {"sampler": "tpe"}}), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    with pytest.raises(UserError, match=r"^config: tune.sampler: tpe needs Optuna: pip install optuna"):
        Tune(grid.study_settings("tune")).jobs(grid)


def test_best_trial_is_the_first_of_the_highest():
    assert best_trial([1.0, 3.0, math.nan, 3.0]) == 1
    assert best_trial([math.nan, math.nan]) is None


# --- one job -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    made = toy_cells(variants=["plain"])
    return pd.concat([run_tuning(toy_features(), job_of(c, seeds=[7, 8]), lambda _: None) for c in made])


def test_rows_have_every_trial_and_mark_the_best(rows):
    assert list(rows.columns) == list(COLUMNS)
    for _, group in rows.groupby("cell"):
        assert sorted(set(group.trial)) == [0, 1, 2] and set(group.seed) == {7, 8}
        means = group.groupby("trial").class_il.mean()
        assert set(group[group.chosen].trial) == {means.idxmax()}
        assert set(group[group.own].trial) == {0}


def test_a_trial_is_a_run_of_the_cell(rows):
    """Trials equal the slow way: a cell with these settings, trained and tested on the split."""
    (sgd, _) = toy_cells(variants=["plain"])
    features = toy_features()
    subset = with_validation(features, held_out(features.train_labels, 0.1, 0))
    for _, row in rows[rows.cell == "sgd"].iterrows():
        cell = with_values(sgd, json.loads(row.settings)).model_copy(update={"seeds": [row.seed]})
        last = run_cell(subset, cell)["matrix"]["class_il"][0][-1]
        assert sum(last) / len(last) == pytest.approx(row.class_il, abs=1e-12)


def test_a_trial_that_diverges_is_never_chosen():
    (sgd, _) = toy_cells(variants=["plain"])
    lines: list[str] = []
    rows = run_tuning(toy_features(), job_of(sgd, settings={"training.lr": [0.1, 1e38]}), lines.append)
    failed = rows[rows.reason.notna()]
    assert len(failed) == 1 and "diverged" in failed.iloc[0].reason and not failed.iloc[0].chosen
    assert math.isnan(failed.iloc[0].class_il) and len(lines) == 2


def test_a_cell_of_domains_is_chosen_by_its_own_scenario():
    """Parts of one name each, with the same classes; rows and summary name Domain-IL."""
    features = toy_features(classes=4)
    features = replace(features, classes=["a/x", "a/y", "b/x", "b/y"])
    stream = {"tasks": 2, "labels": "same"}
    cell = make_cell("er", "plain", scenarios=["domain_il"], seeds=[0], **stream)
    rows = run_tuning(features, job_of(cell), lambda _: None)
    assert set(rows.criterion) == {"domain_il"} and rows.class_il.equals(rows.task_il)
    line = summary(rows).iloc[0]
    assert line.criterion == "domain_il" and line.chosen_acc_mean == rows.class_il.max()


@pytest.mark.reliability("tuning-failed")
def test_if_every_trial_fails_the_job_gives_the_first_reason():
    (sgd, _) = toy_cells(variants=["plain"], training={"lr": 1e38})
    with pytest.raises(UserError, match=r"^tune: every trial of s_digits/sgd failed: .*diverged"):
        run_tuning(toy_features(), job_of(sgd, settings={"training.lr": [1e38, 2e38]}), lambda _: None)


# --- tables and grids that take what was chosen ----------------------------------------------------------


def test_summary_and_choice_have_the_numbers_of_the_rows(rows):
    tune = job_of(toy_cells()[0], seeds=[7, 8]).tune
    lines = summary(rows)
    for line in lines.itertuples():
        group = trials(rows)[lambda t, name=line.cell: t.cell == name]
        assert line.chosen_acc_mean == group.acc_mean.max() == line.best
        assert line.gain == line.chosen_acc_mean - group[group.own].acc_mean.iloc[0] >= 0
    chosen = chosen_settings(rows, tune)["chosen"]["s_digits"]
    assert set(next(iter(chosen.values()))) == set(rows.cell)
    assert re_number(sentence(rows)) == int((lines.chosen_settings == lines.own_settings).sum())


def re_number(text: str) -> int:
    return int(text.split(" in ")[1].split(" of ")[0])


def tuned_file(folder, grid: dict, values: dict | None = None) -> str:
    chosen: dict = {}
    digests: dict = {}
    for cell in cells(load_grid(grid)):
        place = chosen.setdefault(cell.dataset, {}).setdefault(cell.backbone, {})
        digests.setdefault(cell.dataset, {}).setdefault(cell.backbone, {})[cell.id] = cell_digest(cell)
        place[cell.id] = {"training.lr": 0.01 if cell.variant == "plain" else 0.02} | (values or {})
    content = {"settings": ["training.lr"], "trials": 3, "validation": 0.1, "sampler": "random"}
    path = folder / "tune.json"
    path.write_text(json.dumps(content | {"select_by": "class_il", "chosen": chosen, "cells": digests}))
    return str(path)


def test_a_grid_takes_what_was_chosen(tmp_path):
    values = {**BASE, "methods": ["ncm", "er"], "buffers": [20]}
    grid = load_grid(values | {"tuned": tuned_file(tmp_path, values)})
    plain, *sharc = [cell for cell in cells(grid) if cell.method == "er"]
    assert plain.training.lr == 0.01 and {cell.training.lr for cell in sharc} == {0.02}
    before = load_grid(values)
    assert [cell.id for cell in cells(grid)] == [cell.id for cell in cells(before)]
    assert cells(grid)[0] == cells(before)[0], "no setting concerns ncm"
    assert grid.config_hash != before.config_hash and load_grid(grid.model_dump()) == grid
    assert "at most 3 trials per cell" in tuned_note(grid.model_dump()) and not tuned_note(
        before.model_dump()
    )


def test_cells_that_are_tuned_to_one_theta_are_one_cell(tmp_path):
    values = {**BASE, "methods": ["er"], "buffers": [20], "variants": ["sharc"]}
    path = tuned_file(tmp_path, values, {"sharc.theta": 0.6})
    (cell,) = cells(load_grid(values | {"tuned": path}))
    assert cell.theta == 0.6 and set(cell.scenarios) == {"task_il", "class_il"}
    content = json.loads((tmp_path / "tune.json").read_text())
    ids = content["chosen"]["s_digits"]["resnet_small-pretrain"]
    next(iter(ids.values()))["training.lr"] = 0.5
    (tmp_path / "tune.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"^config: tuned: two cells of s_digits became er-sharc.*theta0.6"):
        cells(load_grid(values | {"tuned": path}))


@pytest.mark.reliability("bad-tuning")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settings": {}}, r"tune.settings: .*at least 1"),
        ({"settings": {"training.rate": [1.0]}}, r"unknown setting 'training.rate'.*training.lr"),
        ({"settings": {"method_settings.er.alpha": [1.0]}}, r"unknown setting 'method_settings.er.alpha'"),
        ({"settings": {"method_settings.erx.alpha": [1.0]}}, r"unknown .*'erx'"),
        ({"settings": {"training.lr": [0.1, 0.1]}}, r"0.1 is listed twice"),
        ({"settings": {"training.lr": {"low": 1.0, "high": 0.5}}}, r"low must be below high"),
        ({"settings": {"training.lr": {"low": 0.0, "high": 0.5, "log": True}}}, r"must be above 0"),
        ({"trials": 1}, r"trials"),
        ({"validation": 0.0}, r"validation"),
    ],
)
def test_settings_of_tuning_are_checked_when_the_grid_is_read(settings, message):
    with pytest.raises(UserError, match=rf"^config: .*{message}") as error:
        load_grid(BASE | {"tune": settings})
    assert "\n" not in str(error.value)


@pytest.mark.reliability("bad-tuning")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"settings": {"training.lr": [0.1, -1.0]}}, r"training.lr cannot be -1.0: .*greater than 0"),
        ({"settings": {"training.lr": [0.1, 0.2]}, "sampler": "grid", "trials": 2}, r"set trials to 3"),
        ({"select_by": "domain_il"}, r"select_by: domain_il is no scenario of s_digits"),
        (
            {"settings": {"training.lr": {"low": 0.1, "high": 0.2}}, "sampler": "grid"},
            r"sampler grid needs a list of values for training.lr",
        ),
    ],
)
def test_values_are_checked_against_the_cells_before_any_job(settings, message):
    grid = load_grid(BASE | {"tune": settings})
    with pytest.raises(UserError, match=rf"^config: tune.*{message}"):
        Tune(grid.study_settings("tune")).jobs(grid)


@pytest.mark.reliability("bad-tuning")
def test_a_file_that_is_not_of_tuned_settings_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^config: tuned: .*there is no file 'nowhere.json': run the tuning"):
        load_grid(BASE | {"tuned": "nowhere.json"})
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"^config: tuned: .*x.json is no file of tuned settings"):
        load_grid(BASE | {"tuned": str(tmp_path / "x.json")})
    path = tuned_file(tmp_path, {**BASE, "methods": ["sgd"]})
    with pytest.raises(UserError, match=r"^config: tuned: nothing was chosen for s_digits/.*/er-plain-m20"):
        cells(load_grid(BASE | {"methods": ["sgd", "er"], "tuned": path}))


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `tune`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented == TuneSettings().model_dump()


@pytest.mark.parametrize("batch_norm", ["drifting", "adapted"])
def test_cells_whose_features_depend_on_held_out_images_are_not_tuned(batch_norm, tmp_path):
    """They keep the grid's settings, also under `tuned`."""
    values = BASE | {"methods": ["er"], "variants": ["plain"]}
    both = values | {"backbone": BASE["backbone"] | {"batch_norm": ["frozen", batch_norm]}}
    grid = load_grid(both | {"tune": {}})
    assert {job.backbone for job in Tune(grid.study_settings("tune")).jobs(grid)} == {"resnet_small-pretrain"}
    tuned = cells(load_grid(both | {"tuned": tuned_file(tmp_path, values)}))
    rates = {cell.batch_norm: cell.training.lr for cell in tuned}
    assert rates == {"frozen": 0.01, batch_norm: 0.1}


@pytest.mark.reliability("bad-tuning")
@pytest.mark.parametrize(
    "change", [{"training": {"epochs": 2}}, {"datasets": {"s_digits": {"source": "digits", "tasks": 2}}}]
)
def test_a_cell_with_other_settings_than_the_tuned_one_is_refused(change, tmp_path):
    values = BASE | {"methods": ["er"], "variants": ["plain"]}
    path = tuned_file(tmp_path, values)
    assert cells(load_grid(values | {"tuned": path, "seeds": [5]}))
    with pytest.raises(UserError, match=r"^config: tuned: s_digits/.* was tuned with other settings"):
        cells(load_grid(values | {"tuned": path} | change))


def test_a_seed_more_tunes_nothing_again():
    jobs = [
        Tune(grid.study_settings("tune")).jobs(grid)
        for grid in (load_grid(BASE), load_grid(BASE | {"seeds": [0, 1, 2]}))
    ]
    assert jobs[0] == jobs[1]


@pytest.mark.pipeline
def test_tuning_and_a_tuned_grid_are_two_calls(project):
    """A real run: tune, then train a grid with what was chosen; its tables say so."""
    (project / "t.yaml").write_text(
        (project / "config/smoke.yaml").read_text().replace("methods: [sgd, er]", "methods: [sgd]")
        + "tune: {settings: {training.lr: [0.01, 0.1]}, trials: 3}\n"
    )
    run = snakemake(project, "tune", "--configfile", "t.yaml")
    assert run.returncode == 0, run.stderr
    chosen = json.loads((project / "results/smoke/tables/tune.json").read_text())["chosen"]["s_digits"]
    values = ("tuned=results/smoke/tables/tune.json", "results_dir=results/tuned")
    run = snakemake(project, "--configfile", "t.yaml", "--config", *values)
    assert run.returncode == 0, run.stderr
    for path in (project / "results/tuned/matrices").rglob("*.json"):
        cell = json.loads(path.read_text())["cell"]
        ids = chosen[cell["backbone"]]
        assert cell["training"]["lr"] == ids[path.stem]["training.lr"]
    assert "Tuning kept the grid's own settings" in (project / "results/smoke/tables/tune.md").read_text()
    assert "Settings are tuned" in (project / "results/tuned/tables/class_il.md").read_text()
