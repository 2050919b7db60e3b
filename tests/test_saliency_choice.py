"""The study `saliency_choice`: planted differences, real cells, tables, figure, jobs, refusals."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
import scipy
import yaml
from factories import make_cell, make_features
from result_factory import constant_matrix, made_by, make_document
from snake import ROOT, own_lines, snakemake
from test_config import BASE

from sharc_core.__main__ import main
from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc
from sharc_core.results.runs import runs_table
from sharc_core.saliency import SALIENCIES
from sharc_core.stages.preflight import check_inputs
from sharc_core.studies.registered import configured_jobs, study_of, trained_cells
from sharc_core.studies.rows import read_rows, write_rows
from sharc_core.studies.saliency_choice import SaliencyChoice
from sharc_core.studies.saliency_choice.figure import choice_figure, write_choice_figure
from sharc_core.studies.saliency_choice.measure import run_choice
from sharc_core.studies.saliency_choice.settings import COLUMNS, ChoiceJob, ChoiceSettings
from sharc_core.studies.saliency_choice.table import (
    choice_findings,
    choice_tables,
    summary,
    write_choice_tables,
)
from sharc_core.studies.saliency_curves.settings import CurveSettings

# ACC by seed: occlusion is 5 points above gradient, random 5 below, activation above and below by turns
GRADIENT = [50.0, 52.0, 51.0, 49.0]
PLANTED = {
    "gradient": GRADIENT,
    "occlusion": [55.2, 56.9, 56.0, 53.9],
    "random": [45.1, 46.8, 46.0, 44.0],
    "activation": [52.0, 50.0, 53.0, 47.0],
}
PLAIN = [47.0, 49.0, 48.0, 46.5]


def document(accs: list[float], variant: str = "sharc", scenario: str = "class_il", **axes) -> dict:
    matrix = constant_matrix(accs)
    matrices = {"task_il": matrix, "class_il": matrix}
    given = {"matrices": matrices, "scenarios": [scenario], "seeds": range(len(accs)), "tasks": 2}
    return make_document("er", variant, **given, **axes)


def rows_of(documents: list[dict], head: str = "linear") -> pd.DataFrame:
    return runs_table(documents).assign(head=head)


def planted(dataset: str = "s_digits", shift: float = 0.0, head: str = "linear", **axes) -> pd.DataFrame:
    sharc = [
        document([a + shift for a in accs], dataset=dataset, saliency=name, **axes)
        for name, accs in PLANTED.items()
    ]
    plain = document([a + shift for a in PLAIN], "plain", dataset=dataset)
    return rows_of([*sharc, plain], head)


# --- planted truths ----------------------------------------------------------------------------------


def test_planted_differences_are_found():
    lines = summary(planted()).set_index("saliency")
    assert len(lines) == 4 and set(lines.dataset) == {"s_digits"}
    assert lines.over_gradient_verdict.drop("gradient").to_dict() == {
        "occlusion": "better",
        "random": "worse",
        "activation": "not told apart",
    }
    assert lines.over_gradient.occlusion == pytest.approx(5.0)
    assert lines.over_gradient_low.occlusion > 4 and lines.over_gradient_high.occlusion < 6
    assert lines.over_random.occlusion == pytest.approx(
        np.mean(PLANTED["occlusion"]) - np.mean(PLANTED["random"])
    )
    assert lines.over_plain.gradient == pytest.approx(np.mean(GRADIENT) - np.mean(PLAIN))
    assert lines.over_gradient.gradient == 0 and lines.acc_mean.gradient == pytest.approx(50.5)


def test_sentences_name_sizes_and_intervals():
    sentence, correction = choice_findings(planted())
    start, rest = sentence.split(": better than gradient: ")
    assert start == "Class-IL, buffer 100 (floats), theta 0.8, associative memory mean, mean over seeds"
    assert correction.startswith(
        "Better and worse are p < 0.05 after Holm's correction for all 3 comparisons"
    )
    better, worse, others = rest.split("; ")
    assert better.startswith("occlusion +5.00 [+4.") and better.count("[") == 1
    assert worse.startswith("worse than gradient: random -5.0")
    assert others.startswith("not told apart from gradient: activation +0.00 [-")


def test_data_sets_and_heads_are_averaged_seed_by_seed():
    """One data set adds to each seed what the other subtracts, which leaves no noise in the mean."""
    noise = np.array([3.0, -2.0, 4.0, -5.0])
    frames = []
    for dataset, sign in (("s_digits", 1), ("s_glyphs", -1)):
        accs = {"gradient": np.full(4, 50.0), "occlusion": 51 + sign * noise}
        documents = [document(list(a), dataset=dataset, saliency=name) for name, a in accs.items()]
        frames.append(rows_of(documents))
    rows = pd.concat(frames, ignore_index=True)
    lines = summary(rows).set_index(["dataset", "saliency"])
    assert lines.over_gradient_verdict["s_digits", "occlusion"] == "not told apart"
    assert lines.over_gradient_verdict["all", "occlusion"] == "better"
    assert lines.over_gradient_low["all", "occlusion"] == pytest.approx(1.0)
    sentence, _ = choice_findings(rows)
    assert "mean over data sets: better than gradient: occlusion +1.00 [+1.00, +1.00]." in sentence
    both = pd.concat([rows, rows.assign(head="mlp")], ignore_index=True)
    assert "mean over data sets and heads: " in choice_findings(both)[0]
    assert len(choice_tables(both)) == 2


def test_a_memory_that_returns_everything_makes_saliencies_equal(tmp_path):
    documents = [
        document(GRADIENT, saliency=name, associative_memory="modern_hopfield")
        for name in ("gradient", "random")
    ]
    (equal,) = choice_findings(rows_of(documents))
    assert equal.startswith("With modern_hopfield and theta 0.8 all saliencies have the same accuracies")
    assert summary(rows_of(documents)).over_gradient_verdict.tolist() == ["–", "equal"]
    assert write_choice_figure(rows_of(documents), tmp_path)


def mixed() -> pd.DataFrame:
    """Return a memory with planted differences and one without any, on two data sets and heads."""
    frames = []
    for dataset, head in product(("s_digits", "s_glyphs"), ("linear", "mlp")):
        null = [
            document(GRADIENT, dataset=dataset, saliency=name, associative_memory="modern_hopfield")
            for name in PLANTED
        ]
        # with adaptive theta this memory has the differences as well
        adaptive = [
            document(accs, dataset=dataset, saliency=name, associative_memory="modern_hopfield")
            for name, accs in PLANTED.items()
        ]
        for made in adaptive:
            made["cell"] |= {"theta": None, "mass": 0.8}
        frames += [planted(dataset, head=head), rows_of([*null, *adaptive], head)]
    return pd.concat(frames, ignore_index=True)


def test_a_memory_without_differences_dilutes_no_mean(tmp_path):
    """The mean over both memories would be half of the difference that was planted."""
    rows = mixed()
    first, second, correction, equal = choice_findings(rows)
    assert "theta 0.8, associative memory mean, mean over data sets and heads: " in first
    assert "mass 0.8, associative memory modern_hopfield, mean over data sets and heads: " in second
    for sentence in (first, second):
        assert "better than gradient: occlusion +5.00 [" in sentence and "+2.5" not in sentence
    assert "for all 6 comparisons" in correction
    assert "With modern_hopfield and theta 0.8 all saliencies" in equal and "in no mean above" in equal
    lines = summary(rows)
    is_null = (lines.associative_memory == "modern_hopfield") & (lines.share == "theta 0.8")
    for reference in ("gradient", "random"):
        others = lines[lines.saliency != reference]
        assert (others[f"over_{reference}_verdict"] == "equal").equals(is_null[others.index])
    assert set(lines.over_plain_verdict) <= {"better", "worse", "not told apart"}
    left_out, drawn = (choice_figure(r) for r in (rows, rows[rows.associative_memory != "modern_hopfield"]))
    theta = [figure.axes[0] for figure in (left_out, drawn)]
    assert [panel.get_title().splitlines()[-1] for panel in theta] == ["theta 0.8"] * 2
    assert len(theta[0].containers) == len(theta[1].containers) == 2 * 3, "heads and saliencies of `mean`"
    write_choice_figure(rows, tmp_path)
    assert "is left out" in (tmp_path / "saliency_choice_differences.json").read_text()


def test_equal_accuracies_in_one_budget_alone_are_a_result():
    """A memory is left out only where its saliencies are equal in every budget and scenario."""
    ceiling = [document([100.0] * 4, saliency=name, buffer=5000) for name in PLANTED]
    large, small, _ = choice_findings(pd.concat([rows_of(ceiling), planted()], ignore_index=True))
    assert "buffer 5000" in large and "not told apart from gradient: random +0.00 [+0.00, +0.00]" in large
    assert "buffer 100 (floats)" in small and "better than gradient: occlusion" in small


def test_verdicts_are_corrected_for_all_comparisons():
    """Differences with p = 0.03 each: alone one is told apart, of twenty none is."""
    shape = np.array([1.0, -1.0, 0.5, -0.5])
    noise = shape / shape.std(ddof=1)
    t = scipy.stats.t.ppf(1 - 0.03 / 2, 3) / 2  # mean over deviation, of four seeds
    for count, word in ((1, "better"), (20, "not told apart")):
        names = [f"own{i}" for i in range(count)]
        accs = {"gradient": np.full(4, 50.0)} | dict.fromkeys(names, 50 + t + noise)
        rows = rows_of([document(list(a), saliency=name) for name, a in accs.items()])
        sentence = choice_findings(rows)[0]
        assert f"{word} " in sentence.split("mean over seeds: ")[1] and "; " not in sentence
        lines = summary(rows)
        assert set(lines.over_gradient_verdict) == {"–", word}
        assert (lines.over_gradient_low[1:] > 0).all(), "the intervals are not corrected"


def test_each_data_set_and_the_mean_are_corrected_apart():
    """Two data sets with three differences each: 3 tests on either, 3 on their mean."""
    rows = pd.concat([planted(), planted("s_glyphs", 1.0)], ignore_index=True)
    lines = summary(rows)
    corrected = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sharc_core.studies.saliency_choice.table.holm", lambda p: corrected.append(len(p)) or list(p)
        )
        summary(rows)
    assert corrected == [3, 3, 3] * 2 + [4, 4, 4] and len(lines) == 12


# --- budgets -----------------------------------------------------------------------------------------


def in_budgets(*budgets: dict) -> pd.DataFrame:
    """Return runs in budgets, plain ones without the charge; in the n-th all accuracies are 10 n higher."""
    documents = []
    for number, budget in enumerate(budgets):
        documents += [
            document([a + 10 * number for a in accs], saliency=name, **budget)
            for name, accs in PLANTED.items()
        ]
        plain = {key: value for key, value in budget.items() if key != "count_associative_memory"}
        made = document([a + 10 * number for a in PLAIN], "plain", **plain)
        documents += [made] if made["cell"] not in [other["cell"] for other in documents] else []
    return rows_of(documents)


BYTES = {"budget_unit": "total_bytes", "buffer": 1_000_000}


@pytest.mark.parametrize(
    ("budgets", "labels"),
    [
        (
            [BYTES | {"count_associative_memory": True}, BYTES],
            ["1.00 MB (total bytes)", "1.00 MB (total bytes, AM not charged)"],
        ),
        (
            [{"budget_unit": "bytes"}, {"budget_unit": "bytes", "count_associative_memory": True}],
            ["buffer 100 (bytes)", "buffer 100 (bytes, AM charged)"],
        ),
        (
            [{}, {"budget_split": "carry"}, {"budget_split": [1.0, 3.0]}],
            ["buffer 100 (floats)", "buffer 100 (floats, carried over)", "buffer 100 (floats, split 1/3)"],
        ),
        (
            [BYTES | {"buffer": size, "count_associative_memory": True} for size in (1_000_000, 1_000_001)],
            ["1.00 MB (total bytes)", "1,000,001 B (total bytes)"],
        ),
    ],
)
def test_budgets_that_differ_in_one_key_stay_apart(budgets, labels):
    rows = in_budgets(*budgets)
    lines = summary(rows)
    assert len(lines) == 4 * len(labels) and set(lines.dataset) == {"s_digits"}, "no mean over budgets"
    assert set(lines.budget) == set(labels)
    assert (lines.over_gradient[lines.saliency == "gradient"] == 0).all()
    assert lines.over_gradient[lines.saliency == "occlusion"].to_numpy() == pytest.approx(5.0)
    if "split" in labels[-1] or "1,000,001" in labels[-1]:  # else the budgets share their plain run
        assert lines.over_plain[lines.saliency == "gradient"].to_numpy() == pytest.approx(2.875)
    assert {table.title.split("head, ")[1] for table in choice_tables(rows)} == set(labels)
    sentences = choice_findings(rows)
    assert len(sentences) == len(labels) + 1
    assert all("better than gradient: occlusion +5.00 [" in sentence for sentence in sentences[:-1])


def test_two_cells_that_nothing_distinguishes_are_refused():
    twice = planted()
    with pytest.raises(ValueError, match="rows of two cells that differ in nothing that the study compares"):
        summary(pd.concat([twice, twice], ignore_index=True))
    other = planted(read="at_store")  # which the study does not compare
    with pytest.raises(ValueError, match="rows of two cells that differ in nothing"):
        choice_findings(pd.concat([twice, other[other.variant == "sharc"]], ignore_index=True))


def test_without_the_papers_saliency_or_a_second_seed():
    rows = planted()
    assert choice_findings(rows[rows.saliency != "gradient"]) == []
    (sentence,) = choice_findings(rows[rows.seed == 0])
    assert "against gradient, without an interval: occlusion +5.20, activation +2.00" in sentence


# --- real cells --------------------------------------------------------------------------------------


def job_of(saliency: str | None) -> ChoiceJob:
    cell = make_cell("er", "plain")
    cells = [cell]
    if saliency is not None:
        kinds = {"associative_memory": "mean", "associative_settings": {}, "saliency": saliency}
        fixed = make_cell("er", "sharc").model_copy(
            update=kinds | {"complete": "all", "importance": "absolute"}
        )
        cells = [fixed, fixed.model_copy(update={"theta": None, "mass": 0.7})]
    return ChoiceJob(cells=[cell.model_dump(mode="json") for cell in cells])


def test_rows_are_those_of_the_learner(tmp_path):
    features, paths, lines = make_features(), [], []
    for saliency in ("gradient", "random", None):
        job = job_of(saliency)
        rows = run_choice(features, job, lines.append)
        assert list(rows.columns) == list(COLUMNS)
        for cell in job.opened:
            expected = acc(np.array(run_cell(features, cell)["matrix"]["class_il"], dtype=float))
            own = rows[(rows.scenario == "class_il") & (rows.theta.fillna(-1) == (cell.theta or -1))]
            np.testing.assert_array_equal(own.acc, expected)
        paths.append(tmp_path / f"{saliency}.csv")
        write_rows(rows, paths[-1], made_by(), "key")
    assert lines[0].startswith("cell 1/2: er-sharc-")
    rows = read_rows(SaliencyChoice(), paths, ["key"] * 3)
    assert len(summary(rows)) == 2 * 2 * 2 and set(summary(rows).share) == {"theta 0.5", "mass 0.7"}
    assert summary(rows).over_plain.notna().all()
    written = write_choice_tables(rows, tmp_path, "c")
    assert [path.name for path in written] == SaliencyChoice().table_names()
    text = written[1].read_text()
    assert "## Task-IL, linear head, buffer 12 (floats)" in text and "\n- Class-IL, buffer 12" in text
    drawn = write_choice_figure(rows, tmp_path)
    assert [path.name for path in drawn] == SaliencyChoice().figure_names({})


def too_small() -> tuple[ChoiceJob, ChoiceJob]:
    """Return a job whose second budget holds no sample, and one with the first budget alone."""
    (fixed, _), charge = job_of("gradient").opened, {"count_associative_memory": True}
    bytes_ = {"budget_unit": "total_bytes", "buffer": 1000}
    small = fixed.model_copy(update=bytes_ | charge)
    dumped = [cell.model_dump(mode="json") for cell in (fixed, small)]
    return ChoiceJob(cells=dumped), ChoiceJob(cells=dumped[:1])


def test_no_cell_is_trained_if_the_budget_of_another_holds_no_sample(monkeypatch):
    trained = []
    monkeypatch.setattr(
        "sharc_core.studies.saliency_choice.measure.run_cell",
        lambda features, cell: trained.append(cell.id) or run_cell(features, cell),
    )
    bad, good = too_small()
    with pytest.raises(UserError, match=r"a budget of 1\.00 kB.* holds no sample of task 1|does not hold"):
        run_choice(make_features(), bad)
    assert trained == []
    run_choice(make_features(), good)
    assert len(trained) == 1


SMALL = {"budgets": [{"unit": "floats", "buffer": 100}, {"unit": "total_bytes", "buffer": "60 kB"}]}
# it holds samples, but none beside the class means of maps
NO_SAMPLE = (
    r"config: saliency_choice: s_digits, resnet_small.*, er-sharc-m60000-total_bytes-am.*: a budget of"
)


def test_budgets_of_the_study_are_checked_before_any_job(tmp_path, capsys):
    values = BASE | {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "results")}
    for block, result in ((SMALL, 1), ({}, 0)):
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values | {"saliency_choice": block}))
        assert main(["check", "--config", str(tmp_path / "grid.yaml")]) == result
        assert (re.search(rf"error: {NO_SAMPLE}", capsys.readouterr().err) is not None) == bool(result)
    check_inputs(load_grid(values | {"saliency_choice": SMALL}))  # the grid's own cells are fine
    with pytest.raises(UserError, match=NO_SAMPLE):
        check_inputs(load_grid(values | {"saliency_choice": SMALL}), of_studies=trained_cells)
    # on its own data sets alone
    two = values | {"datasets": {name: {"source": "digits", "tasks": 5} for name in ("s_digits", "other")}}
    cells = trained_cells(load_grid(two | {"saliency_choice": SMALL | {"datasets": ["other"]}}))
    assert {cell.dataset for cell in cells["saliency_choice"]} == {"other"}
    assert trained_cells(load_grid(two)) == {}


@pytest.mark.pipeline
def test_a_plan_refuses_budgets_of_the_study(copy):
    (copy / "grid.yaml").write_text(yaml.safe_dump(BASE | {"saliency_choice": SMALL}))
    run = snakemake(copy, "--dry-run", "--configfile", "grid.yaml")
    (line,) = own_lines(run)
    assert run.returncode == 1 and re.match(rf"error: {NO_SAMPLE}", line)


# --- settings and jobs -------------------------------------------------------------------------------


def jobs_of(**block):
    grid = load_grid(BASE | {"saliency_choice": block})
    return study_of(grid, "saliency_choice").jobs(grid)


def test_jobs_hold_all_cells_of_a_saliency():
    jobs = jobs_of(saliencies=["gradient", "random"], heads=["mlp"])
    assert [job.name for job in jobs] == ["mlp-plain", "mlp-gradient", "mlp-random"]
    plain, sharc = (ChoiceJob.model_validate(dict(job.settings)).opened for job in jobs[:2])
    assert [(c.budget_unit, c.buffer, c.variant) for c in plain] == [
        ("floats", 100, "plain"),
        ("total_bytes", 500_000, "plain"),
    ]
    assert {(c.theta, c.mass, c.associative_memory, c.budget_unit) for c in sharc} == {
        (theta, mass, memory, unit)
        for theta, mass in ((0.5, None), (None, 0.8))
        for memory in ("mean", "modern_hopfield")
        for unit in ("floats", "total_bytes")
    }
    assert all(c.count_associative_memory == (c.budget_unit == "total_bytes") for c in sharc)
    assert all(c.head.kind == "mlp" and c.seeds == [0, 1] for c in [*plain, *sharc])
    budget = {"unit": "total_bytes", "buffer": 500_000}
    charged = [budget | {"count_associative_memory": is_charged} for is_charged in (True, False)]
    jobs = jobs_of(saliencies=["gradient"], heads=["mlp"], budgets=charged)
    assert [len(job.settings["cells"]) for job in jobs] == [1, 8], "plain runs have no memory to charge"
    assert len(jobs_of()) == 2 * (len(SALIENCIES.names()) + 1)
    grid = load_grid(BASE | {"saliency_choice": {"heads": ["linear"], "saliencies": ["gradient"]}})
    assert configured_jobs(grid) == {"saliency_choice": 2} and configured_jobs(load_grid(BASE)) == {}


@pytest.mark.parametrize(
    ("name", "model"), [("saliency_choice", ChoiceSettings), ("saliency_curves", CurveSettings)]
)
def test_every_key_is_documented_with_its_default(name, model):
    text = (ROOT / "docs/config.md").read_text().split(f"\n## `{name}`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == model.model_fields.keys()
    assert model.model_validate(documented) == model()


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"saliencies": ["occluson"]}, r"unknown saliency 'occluson' \(did you mean 'occlusion'\?\)"),
        ({"theta": [1.5]}, "theta"),
        ({"budgets": [{"unit": "floats", "buffer": 0}]}, "buffer"),
        ({"budgets": [{"unit": "furlongs", "buffer": 5}]}, "unit"),
        ({"seeds": [1, 1]}, "1 is listed twice"),
        ({"budgets": [{"unit": "floats", "buffer": "5 kB"}]}, "5 kB is a size: it needs unit total_bytes"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: saliency_choice\..*{message}") as caught:
        load_grid(BASE | {"saliency_choice": block})
    assert "\n" not in str(caught.value)


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"methods": ["err"]}, "unknown method 'err'"),
        ({"associative_memory": ["meen"]}, "unknown associative memory 'meen'"),
        ({"budgets": [{"unit": "floats", "buffer": 3}]}, "buffers: 3 is smaller than the 5 tasks"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused_when_it_is_planned(block, message):
    grid = load_grid(BASE | {"saliency_choice": block})
    for planned in (study_of(grid, "saliency_choice").jobs, configured_jobs):  # the plan's and `check`'s
        with pytest.raises(UserError, match=rf"^config: saliency_choice: .*{message}") as caught:
            planned(grid)
        assert "\n" not in str(caught.value)


def test_a_grid_without_the_block_that_does_not_fit_has_no_jobs():
    grid = load_grid(BASE | {"memory": {"selection": "reservoir"}, "methods": ["er"], "variants": ["plain"]})
    assert study_of(grid, "saliency_choice").jobs(grid) == []
