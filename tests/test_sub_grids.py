"""Studies inside a grid: overridden keys, shared cells, and reported rows."""

import copy

import pandas as pd
import pytest
from result_factory import make_document, make_grid
from test_config import BASE

from sharc_core.common.errors import UserError
from sharc_core.grid.loading import load_grid, sub_grid_of
from sharc_core.grid.unroll import cells, memberships
from sharc_core.results.published import no_published
from sharc_core.results.runs import read_runs, runs_table, write_runs
from sharc_core.results.summary import summarise
from sharc_core.results.tables import write_study_tables, write_tables


def with_studies(studies: dict, **changes) -> dict:
    return copy.deepcopy(BASE) | {"methods": ["sgd", "er", "gem"]} | changes | {"studies": studies}


def reported(grid) -> dict[str, dict]:
    return {cell.id: members for cell, members in memberships(grid)}


SWEEP = {"figure": "theta", "methods": ["sgd", "er"], "buffers": [20], "sharc": {"theta": [0.1, 0.4]}}


def test_a_study_adds_the_cells_that_the_grid_lacks_and_shares_the_others():
    before, after = cells(load_grid(with_studies({}))), cells(load_grid(with_studies({"sweep": SWEEP})))
    keys = [(cell.dataset, cell.backbone, cell.id) for cell in after]
    assert len(set(keys)) == len(keys)
    assert [cell.job for cell in after[: len(before)]] == [cell.job for cell in before]
    assert [cell.id for cell in after[len(before) :]] == [
        "er-sharc-m20-floats-theta0.1-gradient-modern_hopfield"
    ]
    members = reported(load_grid(with_studies({"sweep": SWEEP})))
    both, name = ["main", "sweep"], "er-sharc-m20-floats-theta{}-gradient-modern_hopfield"
    assert members["sgd"] == members["er-plain-m20-floats"] == {"task_il": both, "class_il": both}
    assert members["er-plain-m50-floats"] == {"task_il": ["main"], "class_il": ["main"]}
    # the grid's theta of Class-IL: the study also reports Task-IL, the grid does not
    assert members[name.format(0.4)] == {"class_il": both, "task_il": ["sweep"]}
    assert members[name.format(0.8)] == {"task_il": ["main"]}
    assert members[name.format(0.1)] == {"task_il": ["sweep"], "class_il": ["sweep"]}


def test_a_study_of_the_grid_itself_is_reported_twice():
    """Its cells are the grid's too, in the grid's scenarios; other studies and hashes stay as they are."""
    extra = {"main": True, "methods": ["er"], "storage": "int8", "scenarios": ["task_il", "class_il"]}
    grid = load_grid(with_studies({"extra": extra, "sweep": SWEEP}, scenarios=["class_il"]))
    members = reported(grid)
    assert members["er-plain-m20-floats-int8"] == {"class_il": ["main", "extra"], "task_il": ["extra"]}
    assert members["er-plain-m20-floats"]["class_il"] == ["main", "sweep"]
    again = load_grid(grid.model_dump())
    assert reported(again) == members and again.config_hash == grid.config_hash
    plain, spelt = (load_grid(with_studies({"sweep": SWEEP | more})) for more in ({}, {"main": False}))
    assert plain.config_hash == spelt.config_hash and "main" not in plain.model_dump()["studies"]["sweep"]


def test_a_study_that_only_reuses_costs_nothing():
    again = {"curves": {"figure": "learning_curves", "buffers": [20]}, "all": {}}
    assert [c.id for c in cells(load_grid(with_studies(again)))] == [
        c.id for c in cells(load_grid(with_studies({})))
    ]


def test_scenarios_are_no_part_of_a_job():
    """Otherwise a study that asks for the other scenario would train the cell again."""
    name = "er-sharc-m20-floats-theta0.4-gradient-modern_hopfield"
    jobs = []
    for studies in ({}, {"sweep": SWEEP}):
        (cell,) = (c for c in cells(load_grid(with_studies(studies))) if c.id == name)
        jobs.append((cell.scenarios, cell.job))
    assert jobs[0][0] != jobs[1][0] and jobs[0][1] == jobs[1][1]


def test_sharc_is_merged_key_by_key_and_the_rest_replaced():
    grid = load_grid(
        with_studies(
            {"one": {"buffers": 50, "budget": {"unit": "bytes"}, "sharc": {"saliency": "random"}}},
            sharc={"theta": 0.3, "read": "at_store"},
            budget={"split": "carry"},
        )
    )
    part = sub_grid_of(grid, "one")
    assert part.sharc.theta == {"task_il": 0.3, "class_il": 0.3}
    assert (part.sharc.saliency, part.sharc.read) == ("random", "at_store")
    assert (part.buffers, part.budget.unit, part.budget.split) == ([50], "bytes", "equal")
    assert (part.methods, part.studies) == (grid.methods, {})


def test_data_sets_are_chosen_by_name():
    datasets = {name: {"source": "digits", "tasks": 5} for name in "ab"}
    grid = load_grid(with_studies({"one": {"datasets": "b", "methods": "mer"}}, datasets=datasets))
    chosen = {c.dataset for c, members in memberships(grid) if members.get("task_il") == ["one"]}
    assert chosen == {"b"}
    assert {c.dataset for c in cells(grid)} == {"a", "b"}


def test_one_name_for_two_trainings_is_refused():
    """A cell's name contains no settings, so one training would be taken for the other."""
    values = with_studies({"slow": {"methods": ["er"], "buffers": [20], "training": {"lr": 0.01}}})
    with pytest.raises(
        UserError, match=r"slow and main both have a cell s_digits, .*, er-plain-m20-floats"
    ) as caught:
        cells(load_grid(values))
    assert "training is {'lr': 0.01" in str(caught.value) and "\n" not in str(caught.value)
    alone = with_studies({"slow": {"methods": ["mer"], "buffers": [20], "training": {"lr": 0.01}}})
    assert [c.training.lr for c in cells(load_grid(alone)) if c.method == "mer"] == [0.01] * 3
    two = {name: {"methods": ["mer"], "seeds": [seed]} for name, seed in (("a", 0), ("b", 1))}
    with pytest.raises(UserError, match="b and a both have a cell .* but seeds is"):
        cells(load_grid(with_studies(two)))


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"bufers": [20]}, r"studies\.x: unknown key 'bufers' \(did you mean 'buffers'\?\); valid: .*figure"),
        ({"results_dir": "elsewhere"}, r"studies\.x: unknown key 'results_dir'"),
        ({"cells": {"device": "cuda"}}, r"studies\.x: unknown key 'cells'"),
        (
            {"datasets": ["s_digit"]},
            r"studies\.x: datasets: .*no data set 's_digit' \(did you mean 's_digits'",
        ),
        ({"methods": ["err"]}, r"studies\.x: methods: unknown method 'err' \(did you mean 'er'\?\)"),
        ({"sharc": {"thetta": 0.5}}, r"studies\.x: unknown key 'sharc\.thetta'.*did you mean 'theta'"),
        ({"sharc": 0.5}, r"studies\.x: sharc: must hold keys and values \(got 0\.5\)"),
        ({"buffers": [3]}, r"studies\.x: buffers: 3 is smaller than the 5 tasks of s_digits"),
        ({"figure": "tetha"}, r"studies\.x\.figure: .*\(got 'tetha'\) \(did you mean 'theta'\?\)"),
        ({"figure": "theta", "variants": ["plain"]}, r"studies\.x: figure theta needs variant sharc and"),
        (
            {"figure": "theta", "methods": ["sgd"]},
            r"studies\.x: figure theta needs",
        ),
        ({"figure": "theta", "sharc": {"theta": {"mass": 0.9}}}, r"studies\.x: figure theta draws shares"),
        ({"figure": "protocol", "variants": ["sharc"]}, r"studies\.x: figure protocol .*: add plain"),
        (3, r"studies\.x: .*\(got 3\)"),
    ],
)
def test_bad_studies_are_one_line(study, message):
    with pytest.raises(UserError, match=f"^config: {message}") as caught:
        load_grid(with_studies({"x": study}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["main", "bytes", "first_task", "recall_masked", "a b", "a.b", ""])
def test_names_that_are_taken_or_cannot_name_files(name):
    with pytest.raises(UserError, match="studies"):
        load_grid(with_studies({name: {}}))


# --- what is reported ------------------------------------------------------------------------------


def documents() -> tuple[list[dict], list[dict]]:
    """Return documents of a grid and of a sweep of theta that shares SGD and plain ER."""
    found = make_grid(("s_digits",), ("sgd", "er"), buffers=(100,))
    members = [{scenario: ["main", "sweep"] for scenario in ("task_il", "class_il")} for _ in found]
    members[-1] = {"task_il": ["main"]}
    for theta in (0.2, 0.5):
        found.append(make_document("er", "sharc", theta=theta))
        members.append({"class_il": ["sweep"], "task_il": ["sweep"]})
    return found, members


def test_runs_say_who_reports_them(tmp_path):
    runs = runs_table(*documents())
    write_runs(runs, tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(read_runs(tmp_path / "runs.csv"), runs, check_exact=True)
    sharc = runs[runs["variant"] == "sharc"]
    assert set(zip(sharc["scenario"], sharc["theta"], sharc["studies"], strict=True)) == {
        ("task_il", 0.8, "main"),
        *((scenario, theta, "sweep") for scenario in ("task_il", "class_il") for theta in (0.2, 0.5)),
    }
    assert set(runs.loc[runs["variant"] == "plain", "studies"]) == {"main sweep"}
    own = {(e.scenario, e.method, e.theta) for e in summarise(runs)}
    assert own == {
        *((s, m, None) for s in ("task_il", "class_il") for m in ("sgd", "er")),
        ("task_il", "er", 0.8),
    }
    assert {e.theta for e in summarise(runs, "sweep")} == {None, 0.2, 0.5}


def test_a_study_whose_name_begins_like_another_is_another():
    runs = runs_table([make_document("er")], [{"task_il": ["sweep_2"]}])
    assert summarise(runs, "sweep") == summarise(runs) == []
    assert len(summarise(runs, "sweep_2")) == 1


def test_the_grids_tables_do_not_change_with_its_studies(tmp_path):
    found, members = documents()
    main = [(d, m) for d, m in zip(found, members, strict=True) if "main" in m.get("task_il", [])]
    alone = runs_table([d for d, _ in main], [{scenario: ["main"] for scenario in m} for _, m in main])
    written = write_tables(runs_table(found, members), no_published(), tmp_path / "with")
    for path, other in zip(written, write_tables(alone, no_published(), tmp_path / "without"), strict=True):
        assert path.read_bytes() == other.read_bytes(), path.name


def test_a_studys_table_holds_its_rows_and_no_others(tmp_path):
    runs = runs_table(*documents())
    (path,) = write_study_tables(runs, no_published(), tmp_path, ["sweep"])
    table = pd.read_csv(path)
    assert path.name == "study_sweep.csv"
    assert table[["scenario", "model"]].to_numpy().tolist() == [
        [scenario, model]
        for scenario in ("task_il", "class_il")
        for model in ("SGD", "ER", "ER+ (theta 0.2)", "ER+ (theta 0.5)")
    ]
    (entry,) = (e for e in summarise(runs, "sweep") if e.theta == 0.5 and e.scenario == "class_il")
    assert table["acc_mean"].iloc[-1] == entry.acc
