"""The study `fair_tuning`: planted rankings, Kendall's tau, real trials, tables, figure, jobs, refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy
import yaml
from factories import make_cell
from result_factory import made_by
from snake import ROOT
from test_config import BASE
from test_tune import toy_features

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.grid.tuned import with_values
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.results.statistics import kendall_tau
from sharc_core.studies.fair_tuning import FairTuning
from sharc_core.studies.fair_tuning.figure import write_fair_figure
from sharc_core.studies.fair_tuning.measure import chosen_trials, run_fair
from sharc_core.studies.fair_tuning.rankings import Rankings, rankings, summary
from sharc_core.studies.fair_tuning.settings import COLUMNS, FairJob, FairSettings
from sharc_core.studies.fair_tuning.table import fair_findings, fair_tables, write_fair_tables
from sharc_core.studies.registered import configured_jobs, study_of
from sharc_core.studies.rows import read_rows, write_rows
from sharc_core.studies.tune.measure import run_tuning
from sharc_core.studies.tune.settings import TuneJob

NOISE = np.array([0.3, -0.2, 0.1, -0.3, 0.1])  # of the seeds, the same for all entrants
METHODS = ["er", "derpp", "gem", "agem"]


def planted(published: list[float], tuned: list[float], jitter: float = 0.0) -> pd.DataFrame:
    """Rows of four plain methods with these ACCs by source. jitter: standard deviation of own noise."""
    source = np.random.default_rng(0)
    rows = []
    for name, accs in (("published", published), ("tuned", tuned)):
        for method, mean in zip(METHODS, accs, strict=True):
            for seed, noise in enumerate(NOISE):
                place = {"dataset": "s_digits", "backbone": "tiny", "cell": method, "method": method}
                row = {"variant": "plain", "buffer": 100, "scenario": "class_il", "source": name}
                row |= {"settings": "{}", "validation_acc": mean, "trials": 5, "failed": 0, "seed": seed}
                rows.append(place | row | {"acc": mean + noise + jitter * source.normal()})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


# --- Kendall's tau -----------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [1000, 4])  # hardly any ties, and many
def test_tau_is_scipys(values):
    a, b = np.random.default_rng(0).integers(values, size=(2, 30, 9)).astype(float)
    expected = [scipy.stats.kendalltau(*pair).statistic for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(kendall_tau(a, b), expected, atol=1e-12)


def test_tau_without_an_order_is_nan():
    assert np.isnan(kendall_tau([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
    assert kendall_tau([0.1 + 0.2, 0.3, 1.0], [5.0, 5.0, 6.0]) == 1, "rounding errors make no order"


# --- planted truths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuned", "tau", "reversed_pairs"),
    [
        ([60.0, 55.0, 50.0, 45.0], 1.0, 0),
        ([45.0, 50.0, 55.0, 60.0], -1.0, 6),
        ([55.0, 60.0, 50.0, 45.0], 2 / 3, 1),
    ],
)
def test_a_planted_ranking_is_found(tuned, tau, reversed_pairs):
    rows = planted([60.0, 55.0, 50.0, 45.0], tuned)
    (ranking,) = rankings(rows)
    assert ranking.tau == pytest.approx(tau) and ranking.tau_halves == 1
    assert ranking.tau_interval == pytest.approx((tau, tau)), "all seeds have the same ranking"
    counts = {"published": 6, "tuned": 6, "reversed": reversed_pairs}
    assert ranking.pairs == {"all": 6} | counts | {f"{name}_holm": n for name, n in counts.items()}
    assert ranking.tau_across == pytest.approx(tau) and (ranking.kept, ranking.cells) == (4, 4)
    lines = summary(rows).set_index("method")
    assert lines.rank_published.to_dict() == {"er": 1, "derpp": 2, "gem": 3, "agem": 4}
    expected = np.subtract(tuned, [60.0, 55.0, 50.0, 45.0])
    np.testing.assert_allclose(lines.change[METHODS], expected, atol=1e-9)
    (sentence,) = fair_findings(rows)
    assert f"Kendall's tau {tau:.2f} [{tau:.2f}, {tau:.2f}] between the rankings of 4 entrants" in sentence
    assert (
        f"Of 6 pairs 6 are told apart with published and 6 with tuned settings, and {reversed_pairs} of "
        f"these in opposite directions; after Holm's correction 6, 6 and {reversed_pairs}." in sentence
    )


def test_rankings_of_noise_alone_are_not_told_apart():
    (ranking,) = rankings(planted([50.0] * 4, [50.0] * 4, jitter=2.0))
    low, high = ranking.tau_interval
    assert low <= 0 <= high and ranking.pairs["reversed"] == 0 and ranking.tau_halves < 0.9
    assert (
        "(not told apart from no relation)" in fair_findings(planted([50.0] * 4, [50.0] * 4, jitter=2.0))[0]
    )


def test_the_bootstrap_resamples_seeds_of_all_entrants_together():
    """Seeds differ by 20 points and entrants by 1: only seeds that all share leave the order as it is."""
    noise = np.array([20.0, -20.0, 10.0, -10.0, 0.0])
    accs = 50.0 + np.arange(4)[:, None] + noise
    ranking = Rankings("d", "b", "class_il", [(name, "plain") for name in METHODS], accs, accs + 2, 4, 0)
    assert ranking.tau_interval == (1.0, 1.0) and ranking.tau_halves == 1 and ranking.tau_across == 1
    # the same seeds in another order for each entrant: what an unpaired bootstrap would see
    source = np.random.default_rng(0)
    alone = Rankings("d", "b", "class_il", ranking.entrants, *source.permuted([accs, accs], axis=2), 4, 0)
    assert alone.tau_interval[0] < 0


def test_tau_across_halves_does_not_profit_from_shared_seeds():
    """Entrants differ by noise of the seeds alone and keep their settings: tau is 1, across halves near 0."""
    accs = np.random.default_rng(3).normal(50.0, 1.0, size=(12, 6))
    entrants = [(f"m{number}", "plain") for number in range(12)]
    ranking = Rankings("d", "b", "class_il", entrants, accs, accs.copy(), 12, 12)
    assert ranking.tau == 1 and abs(ranking.tau_across) < 0.5
    assert ranking.tau_across == pytest.approx(ranking.tau_halves)


def test_pairs_are_corrected_for_their_number():
    """Gaps at the edge of the interval: told apart one by one, not after Holm's correction for 66 pairs."""
    accs = np.random.default_rng(1).normal(50.0, 1.0, size=(12, 5))
    entrants = [(f"m{number}", "plain") for number in range(12)]
    pairs = Rankings("d", "b", "class_il", entrants, accs, accs[::-1].copy(), 12, 0).pairs
    assert pairs["all"] == 66 and 0 < pairs["published"] < 15
    assert pairs["published_holm"] == pairs["tuned_holm"] == pairs["reversed_holm"] == 0


def test_cells_that_kept_their_settings_are_counted():
    rows = planted([60.0, 55.0, 50.0, 45.0], [60.0, 55.0, 50.0, 45.0])
    rows.loc[(rows.source == "tuned") & (rows.method == "er"), "settings"] = '{"training.lr": 0.5}'
    other = rows.assign(dataset="s_glyphs")
    made = rankings(pd.concat([rows, other], ignore_index=True))
    assert [(r.kept, r.cells) for r in made] == [(3, 4), (3, 4), (6, 8)]


def test_data_sets_are_averaged_seed_by_seed_and_sharc_is_compared():
    rows = planted([60.0, 55.0, 50.0, 45.0], [60.0, 55.0, 50.0, 45.0])
    sharc = rows.assign(variant="sharc", acc=rows.acc + np.where(rows.source == "tuned", 0.5, 2.0))
    both = pd.concat([rows, sharc], ignore_index=True)
    other = both.assign(dataset="s_glyphs", acc=both.acc - np.where(both.method == "er", 30.0, 0.0))
    rows = pd.concat([both, other], ignore_index=True)
    assert [ranking.dataset for ranking in rankings(rows)] == ["s_digits", "s_glyphs", "all"]
    mean = rankings(rows)[-1]
    assert mean.published[mean.entrants.index(("er", "plain"))] == pytest.approx(45.0 + NOISE)
    digits, glyphs, ranking, gain = fair_findings(rows)
    assert digits.startswith("Class-IL, tiny, s_digits: Kendall's tau") and "tiny, s_glyphs: " in glyphs
    assert "mean over data sets" in ranking and "8 entrants" in ranking
    assert "is +2.00 [+2.00, +2.00] with published and +0.50 [+0.50, +0.50] with tuned settings" in gain
    table, agreement = fair_tables(rows)
    assert len(table.rows) == 8 and len(summary(rows)) == 24
    assert [row[0].text for row in agreement.rows] == [
        f"Class-IL, tiny, {place}" for place in ("s_digits", "s_glyphs", "mean over data sets")
    ]


# --- real cells --------------------------------------------------------------------------------------


def job_of(*cells, **settings) -> FairJob:
    values = {"settings": {"training.lr": [0.0001, 0.1], "sharc.theta": [0.3]}, "trials": 4, "seeds": [7, 8]}
    tune = FairSettings.model_validate(values | settings).search
    return FairJob(cells=[cell.model_dump(mode="json") for cell in cells], tune=tune)


def test_rows_are_those_of_the_learner(tmp_path):
    """A rate that learns nothing is published: tuning replaces it, and the test ACCs are plain runs'."""
    cell = make_cell("er", "plain")
    cell = with_values(cell, {"training.lr": 0.0001})
    features, lines = toy_features(), []
    job = job_of(cell, make_cell("er", "sharc"))
    rows = run_fair(features, job, lines.append)
    assert list(rows.columns) == list(COLUMNS) and lines[-1].endswith("settings tested")
    plain = rows[(rows.variant == "plain") & (rows.scenario == "class_il")]
    for source, lr in (("published", 0.0001), ("tuned", 0.1)):
        own = plain[plain.source == source]
        assert {json.loads(text)["training.lr"] for text in own.settings} == {lr}
        expected = acc(
            np.array(run_cell(features, with_values(cell, {"training.lr": lr}))["matrix"]["class_il"])
        )
        np.testing.assert_array_equal(own.acc, expected)
    write_rows(rows, tmp_path / "er.csv", made_by(), "key")
    rows = read_rows(FairTuning(), [tmp_path / "er.csv"], ["key"])
    lines = summary(rows).set_index(["scenario", "variant"])
    assert lines.change["class_il", "plain"] > 5
    written = write_fair_tables(rows, tmp_path, "c")
    assert [path.name for path in written] == FairTuning().table_names()
    assert "## Class-IL, toy" in written[1].read_text() and "\\begin{table*}" in written[2].read_text()
    drawn = write_fair_figure(rows, tmp_path)
    assert [path.name for path in drawn] == FairTuning().figure_names({})


def test_each_scenario_takes_the_trial_that_is_best_in_it():
    trials = pd.DataFrame(
        {
            "trial": [0, 0, 1, 1, 2, 2],
            "settings": ["a", "a", "b", "b", "c", "c"],
            "class_il": [50.0, 52.0, 60.0, 40.0, 53.0, 51.0],
            "task_il": [90.0, 90.0, 95.0, 95.0, np.nan, 99.0],
        }
    )
    chosen = chosen_trials(trials, "class_il")
    assert chosen["published"].to_dict() == {
        "settings": "a",
        "validation_acc": 51.0,
        "trials": 3,
        "failed": 0,
    }
    assert chosen["tuned"].settings == "c" and chosen["tuned"].validation_acc == 52.0
    assert chosen_trials(trials, "task_il")["tuned"].to_dict() == {
        "settings": "b",
        "validation_acc": 95.0,
        "trials": 3,
        "failed": 1,
    }


def test_the_trials_are_those_of_the_study_tune():
    cell = make_cell("er", "plain")
    job = job_of(cell)
    rows = run_fair(toy_features(), job, lambda _: None)
    tuning = TuneJob(cell=cell.model_dump(mode="json"), tune=job.tune)
    trials = run_tuning(toy_features(), tuning, lambda _: None)
    for scenario in ("class_il", "task_il"):
        best = trials.groupby("trial")[scenario].mean().max()
        own = rows[(rows.scenario == scenario) & (rows.source == "tuned")]
        assert own.validation_acc.unique() == pytest.approx([best])


# --- settings and jobs -------------------------------------------------------------------------------


def jobs_of(**block):
    grid = load_grid(BASE | {"fair_tuning": block})
    return study_of(grid, "fair_tuning").jobs(grid)


def test_jobs_hold_the_cells_of_a_method():
    jobs = jobs_of(methods=["er", "gem"], buffer=20, trials=3)
    assert [job.name for job in jobs] == ["er", "gem"]
    job = FairJob.model_validate(dict(jobs[0].settings))
    assert [cell.variant for cell in job.opened] == ["plain", "sharc", "sharc"]
    assert all(cell.buffer == 20 and cell.seeds == [0, 1] for cell in job.opened)
    assert job.tune.trials == 3 and job.tune.seeds == [1000, 1001, 1002]
    assert configured_jobs(load_grid(BASE)) == {}


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `fair_tuning`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == FairSettings.model_fields.keys()
    assert FairSettings.model_validate(documented) == FairSettings()


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"methods": ["er"]}, r"methods"),
        ({"methods": ["er", "er"]}, "'er' is listed twice"),
        ({"trials": 1}, "trials"),
        ({"settings": {"training.rate": [1.0]}}, "unknown setting 'training.rate'"),
        ({"select_by": "class_il"}, "unknown key 'fair_tuning.select_by'"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: .*{message}") as caught:
        load_grid(BASE | {"fair_tuning": block})
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"methods": ["er", "knn"]},
            "no setting concerns knn: add one to fair_tuning.settings, or remove",
        ),
        ({"settings": {"training.lr": [-1.0]}}, "training.lr cannot be -1.0"),
        ({"sampler": "grid"}, "sampler grid needs a list of values for training.lr"),
        ({"methods": ["er", "derp"]}, "unknown method 'derp'"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_planned(block, message):
    grid = load_grid(BASE | {"fair_tuning": {"buffer": 20} | block})
    for planned in (study_of(grid, "fair_tuning").jobs, configured_jobs):
        with pytest.raises(UserError, match=rf"^config: fair_tuning: .*{message}") as caught:
            planned(grid)
        assert "\n" not in str(caught.value)
