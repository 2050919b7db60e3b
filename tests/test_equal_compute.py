"""The study `equal_compute`: what is equalised, planted differences, real cells, tables, figure, refusals."""

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from factories import make_cell, make_features
from result_factory import made_by
from snake import ROOT
from test_config import BASE

from sharc_core.common import phases
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.tuned import with_values
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.studies.equal_compute import EqualCompute, measure
from sharc_core.studies.equal_compute.comparison import comparisons, summary
from sharc_core.studies.equal_compute.figure import write_compute_figure
from sharc_core.studies.equal_compute.measure import Trained, run_compute, steps_for
from sharc_core.studies.equal_compute.settings import BUDGETS, COLUMNS, ComputeJob, ComputeSettings
from sharc_core.studies.equal_compute.table import compute_findings, compute_tables, write_compute_tables
from sharc_core.studies.registered import configured_jobs, study_of
from sharc_core.studies.rows import read_rows, write_rows

ER = [90.0, 91.0, 89.0, 90.5]


def planted(accs: dict[tuple[str, str], list[list[float]]], dataset: str = "s_digits") -> pd.DataFrame:
    """Rows of entrants with ACCs by seed under each kind of compute; targets of 100 samples and 2 seconds."""
    rows = []
    for (method, variant), by_compute in accs.items():
        for compute, values, target in zip(BUDGETS, by_compute, (np.nan, 100.0, 2.0), strict=True):
            row = {"dataset": dataset, "backbone": "tiny", "cell": f"{method}-{variant}", "method": method}
            row |= {"variant": variant, "buffer": 20, "scenario": "class_il", "compute": compute}
            row |= {"steps_per_batch": 2.0, "gradient_samples": 98, "seconds": 2.1, "target": target}
            rows += [row | {"train_flops": 1e6, "seed": s, "acc": a} for s, a in enumerate(values)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def shifted(points: float, jitter: float = 0.1) -> list[float]:
    return [a + points + sign * jitter for a, sign in zip(ER, (1, -1, 1, -1), strict=True)]


TRUTH = {
    ("er", "plain"): [ER, ER, ER],
    ("er", "sharc"): [shifted(3), shifted(0, 2.0), shifted(-3)],
    ("derpp", "plain"): [shifted(-2), shifted(2), shifted(0, 2.0)],
}


# --- planted truths ----------------------------------------------------------------------------------


def test_planted_differences_are_found_under_each_kind_of_compute():
    lines = summary(planted(TRUTH), "er").set_index(["compute", "method", "variant"])
    words = {
        ("one step", "derpp", "plain"): "lowered",
        ("equal samples", "derpp", "plain"): "raised",
        ("equal seconds", "derpp", "plain"): "not told apart",
        ("one step", "er", "sharc"): "raised",
        ("equal samples", "er", "sharc"): "not told apart",
        ("equal seconds", "er", "sharc"): "lowered",
    }
    assert lines.over_reference_verdict[list(words)].to_dict() == words
    assert lines.over_reference["one step", "derpp", "plain"] == pytest.approx(-2)
    assert lines.over_plain["equal seconds", "er", "sharc"] == pytest.approx(-3)
    assert np.isnan(lines.over_reference["one step", "er", "plain"])
    assert lines.change["equal samples", "derpp", "plain"] == pytest.approx(4)
    assert lines.change_verdict["equal samples", "er", "sharc"] == "not told apart"
    assert lines.change["one step"].isna().all() and np.isnan(lines.change["equal samples", "er", "plain"])
    assert lines.ratio_low["equal samples"].unique() == [0.98]
    assert lines.ratio_high["equal seconds"].unique() == [1.05] and lines.ratio_low["one step"].isna().all()


def test_sentences_name_sizes_intervals_and_what_is_left():
    one, samples, seconds, change, later, gain, left = compute_findings(planted(TRUTH), "er")
    assert one.startswith("Class-IL, tiny, s_digits, one step: better than plain ER: ER+ +3.00 [+2.")
    assert "worse than plain ER: DER++ -2.00 [-2." in one
    assert samples.endswith("not told apart from plain ER: ER+ +0.00 [-3.67, +3.67].")
    assert "worse than plain ER: ER+ -3.00" in seconds and "not told apart from plain ER: DER++" in seconds
    assert "+0.00 [-3.67, +3.67] (not told apart from zero) with equal samples" in gain
    assert "-3.00 [-3.18, -2.82] with equal seconds" in gain
    assert change == (
        "Class-IL, tiny, s_digits, equal samples: change of the difference from plain ER since one step, "
        "told apart from zero: DER++ +4.00 [+4.00, +4.00]; "
        "not told apart from zero: ER+ -3.00 [-6.49, +0.49]."
    )
    assert "told apart from zero: ER+ -6.00 [-6.00, -6.00]; not told apart from zero: DER++ +2.00" in later
    assert left.endswith(
        "gradient samples are 0.980 to 0.980 of the target in equal samples; "
        "seconds are 1.050 to 1.050 of the target in equal seconds."
    )


def test_data_sets_are_averaged_and_keep_their_ratios():
    other = planted(TRUTH, "s_glyphs").assign(target=lambda rows: rows.target * 1.4)
    rows = pd.concat([planted(TRUTH), other], ignore_index=True)
    assert [c.dataset for c in comparisons(rows)] == ["s_digits", "s_glyphs", "all"] * 3
    mean = comparisons(rows)[5]
    assert mean.compute == "equal samples" and mean.range_of() == (0.7, 0.98)
    assert "mean over data sets" in compute_findings(rows, "er")[0] and len(compute_tables(rows, "er")) == 1


# --- what is equalised -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "single", "per_step", "expected"),
    [
        (100, 20, 20, 5),
        (100, 100, 20, 1),
        (90, 50, 20, 3),
        (10, 50, 20, 1),
        (100, 10, 0, 1),
        (1e9, 1, 1, 1000),
    ],
)
def test_steps_reach_the_target(target, single, per_step, expected):
    assert steps_for(target, single, per_step) == pytest.approx(expected)


def job_of(*cells, scenario: str = "class_il", repeats: int = 1) -> ComputeJob:
    dumped = [cell.model_dump(mode="json") for cell in cells]
    return ComputeJob(scenario=scenario, cells=dumped, repeats=repeats)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    cells = [make_cell("sgd"), make_cell("er"), make_cell("er", "sharc"), make_cell("gem")]
    return run_compute(make_features(), job_of(*cells), lambda _: None)


def test_all_use_as_many_gradient_samples_as_the_most_expensive(rows):
    assert list(rows.columns) == list(COLUMNS)
    single = rows[rows["compute"] == "one step"].groupby(["method", "variant"]).gradient_samples.first()
    equal = rows[rows["compute"] == "equal samples"]
    assert set(equal.target) == {single.max()} and (rows.steps_per_batch >= 1).all()
    # a step more or less in each of three tasks, of at most 16 samples
    assert (abs(equal.gradient_samples - equal.target) <= 3 * 16).all()
    assert single["sgd", "plain"] < single.max(), "SGD takes more steps"
    of_sgd = equal[equal.method == "sgd"].steps_per_batch.iloc[0]
    assert of_sgd == pytest.approx(single.max() / single["sgd", "plain"])


def test_accuracies_are_those_of_runs_with_these_steps(rows):
    for compute in BUDGETS:
        own = rows[(rows["compute"] == compute) & (rows.method == "er") & (rows.variant == "plain")]
        steps = own.steps_per_batch.iloc[0]
        document = run_cell(
            make_features(), with_values(make_cell("er"), {"training.steps_per_batch": steps})
        )
        np.testing.assert_array_equal(own.acc, acc(np.array(document["matrix"]["class_il"], dtype=float)))
        assert own.gradient_samples.iloc[0] == document["costs"]["gradient_samples"][0]


@pytest.mark.parametrize("fixed", [0.0, 3.0])
def test_planted_seconds_are_equalised(monkeypatch, fixed):
    """Methods whose seconds are known: `fixed` and so many per step. The slowest is the target."""
    per_step = {"sgd": 0.25, "er": 0.5, "gem": 8.0}

    def planted_run(features, cell, steps):
        matrix = {"class_il": np.full((3, 3, 3), 50.0).tolist()}
        costs = {"gradient_samples": [int(100 * steps)] * 3, "train_flops": [1] * 3}
        return Trained(steps, fixed + per_step[cell.method] * steps, {"matrix": matrix, "costs": costs})

    monkeypatch.setattr(measure, "trained", planted_run)
    cells = [make_cell(name) for name in per_step]
    found = run_compute(make_features(), job_of(*cells), lambda _: None)
    timed = found[found["compute"] == "equal seconds"].groupby("method").first()
    assert timed.seconds.to_numpy() == pytest.approx(np.full(3, fixed + 8.0))
    assert timed.steps_per_batch.to_dict() == pytest.approx({"sgd": 32, "er": 16, "gem": 1})


def test_seconds_are_of_the_cpu_and_without_testing(monkeypatch):
    """A clock that another program slows down does not count, nor does testing."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(
        phases, "time", SimpleNamespace(perf_counter=time.perf_counter, process_time=lambda: next(ticks))
    )
    with phases.measured(cpu=True) as seconds, phases.phase(phases.TESTING):
        pass
    assert seconds[phases.TESTING] == 1 and sum(seconds.values()) == 3  # three readings of the clock
    with phases.measured() as seconds:
        pass
    assert sum(seconds.values()) < 1
    run = measure.trained(make_features(), make_cell("sgd"), 1)
    assert run.seconds == int(run.seconds) > 0


def test_tables_and_figure_are_written(rows, tmp_path):
    write_rows(rows, tmp_path / "class_il.csv", made_by(), "key")
    read = read_rows(EqualCompute(), [tmp_path / "class_il.csv"], ["key"])
    written = write_compute_tables(read, "er", tmp_path, "c")
    assert [path.name for path in written] == EqualCompute().table_names()
    text = written[1].read_text()
    assert "## Class-IL, toy" in text and "Left unequal: gradient samples are" in text
    assert "\\begin{table*}" in written[2].read_text()
    drawn = write_compute_figure(read, "er", tmp_path)
    assert [path.name for path in drawn] == EqualCompute().figure_names({})
    (table,) = compute_tables(read, "er")
    assert all(len(row) == len(table.header) for row in table.rows)


# --- settings and jobs -------------------------------------------------------------------------------


def test_jobs_hold_the_cells_of_a_scenario():
    grid = load_grid(BASE | {"equal_compute": {"methods": ["sgd", "er"], "buffer": 20, "seeds": [5]}})
    jobs = study_of(grid, "equal_compute").jobs(grid)
    assert [job.name for job in jobs] == ["task_il", "class_il"]
    task, one = (ComputeJob.model_validate(dict(job.settings)) for job in jobs)
    assert [(c.method, c.variant, c.theta) for c in task.opened] == [
        ("sgd", "plain", None),
        ("er", "plain", None),
        ("er", "sharc", 0.8),
    ]
    assert [c.theta for c in one.opened] == [None, None, 0.4] and one.scenario == "class_il"
    assert all(c.seeds == [5] and c.training.steps_per_batch == 1 for c in one.opened)
    assert configured_jobs(grid) == {"equal_compute": 2} and configured_jobs(load_grid(BASE)) == {}


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `equal_compute`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == ComputeSettings.model_fields.keys()
    assert ComputeSettings.model_validate(documented) == ComputeSettings()


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"methods": ["er"]}, "methods"),
        ({"methods": ["sgd", "gem"]}, "reference er is not in methods: add it"),
        ({"seeds": [1, 1]}, "1 is listed twice"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: equal_compute.*{message}") as caught:
        load_grid(BASE | {"equal_compute": block})
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"methods": ["er", "ncm"]}, "ncm takes no steps of SGD on the stream, .*: take it out of methods"),
        ({"methods": ["er", "derp"]}, "unknown method 'derp'"),
        ({"buffer": 3}, "buffers: 3 is smaller than the 5 tasks"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_planned(block, message):
    grid = load_grid(BASE | {"equal_compute": {"buffer": 20} | block})
    for planned in (study_of(grid, "equal_compute").jobs, configured_jobs):
        with pytest.raises(UserError, match=rf"^config: equal_compute: .*{message}") as caught:
            planned(grid)
        assert "\n" not in str(caught.value)
