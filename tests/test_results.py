"""runs.csv: columns, order, checks and round trips."""

import json
import random
from itertools import groupby, product

import numpy as np
import pandas as pd
import pytest
from result_factory import constant_matrix, make_document, make_grid

from sharc_core.common.errors import UserError
from sharc_core.results.runs import COLUMNS, read_runs, runs_table, write_runs
from sharc_core.results.summary import summarise

CONTRACT = """
dataset backbone scenario method variant buffer theta associative_memory saliency budget_unit seed acc aia bwt
fwt forgetting bwt_in_code forgetting_in_code episodic_bytes associative_bytes total_bytes samples_stored
recall_mse train_seconds config_hash versions learner_bytes read count_associative_memory mass budget_split
storage importance protocol views peak_bytes train_flops backbone_passes studies commit dirty data weights
host
"""


def test_a_row_per_seed_and_reported_scenario_with_every_column():
    runs = runs_table(make_grid())
    assert sorted(runs.columns) == sorted(CONTRACT.split())
    # 2 data sets x (2 baselines + 6 methods x 2 buffers x 2 variants) x 2 scenarios x 3 seeds
    assert len(runs) == 2 * (2 + 6 * 2 * 2) * 2 * 3
    sum_of_parts = runs["episodic_bytes"] + runs["associative_bytes"] + runs["learner_bytes"]
    assert (runs["total_bytes"] == sum_of_parts).all()
    assert runs.loc[runs["method"] == "sgd", "buffer"].isna().all()
    assert runs.loc[runs["method"] == "joint", ["aia", "bwt", "fwt", "forgetting"]].isna().all(axis=None)
    assert (
        runs.loc[runs["method"] != "joint", ["acc", "aia", "bwt", "fwt", "forgetting"]].notna().all(axis=None)
    )


def test_metrics_and_costs_belong_to_their_seed_and_scenario():
    matrices = {
        "task_il": [[[90.0, 50], [80, 70]], [[92.0, 50], [90, 80]]],
        "class_il": [[[90.0, 0], [20, 70]], [[92.0, 0], [30, 80]]],
    }
    document = make_document("er", "sharc", matrices=matrices, seeds=[4, 7], scenarios=["class_il"])
    runs = runs_table([document])
    assert runs["scenario"].tolist() == ["class_il"] * 2
    assert runs["seed"].tolist() == [4, 7]
    assert runs["acc"].tolist() == [45, 55]
    assert runs["aia"].tolist() == [(90 + 45) / 2, (92 + 55) / 2]
    assert runs["bwt"].tolist() == [-70, -62]
    assert runs["forgetting"].tolist() == [70, 62]
    assert runs["fwt"].tolist() == [0 - 25, 0 - 25]
    assert runs["recall_mse"].tolist() == document["costs"]["recall_mse"]
    assert runs["versions"][0].startswith("python 3.11; sharc_bench 0.1.0")


def test_order_does_not_depend_on_the_order_of_the_cells():
    cells = make_grid(datasets=("s_cifar100", "s_cifar10"), methods=("er", "sgd", "joint"))
    shuffled = cells[:]
    random.Random(0).shuffle(shuffled)
    pd.testing.assert_frame_equal(runs_table(cells), runs_table(shuffled))
    runs = runs_table(cells)
    assert list(dict.fromkeys(runs["dataset"])) == ["s_cifar10", "s_cifar100"]
    assert list(dict.fromkeys(runs["method"])) == ["joint", "sgd", "er"]


SPLITS = ["equal", "carry", [1.0, 1.0, 2.0], [1.0, 1.0, 1.0 + 1e-9], [1.0, 1.0, 1.0]]


def unequal_grid():
    """Return cells with every kind of split, storage and mass, plain and with SHARC."""
    documents = [make_document("sgd")]
    for split, storage in product(SPLITS, ["float32", "float16", "int8"]):
        budget = {"budget_split": split, "storage": storage}
        documents.append(make_document("er", **budget))
        for theta, mass in ((0.5, None), (None, 0.5), (None, 0.9)):
            documents.append(make_document("er", "sharc", theta=theta, mass=mass, **budget))
    return documents


def test_order_of_splits_storages_and_masses_depends_on_the_content_alone():
    cells = unequal_grid()
    runs = runs_table(cells)
    for seed in range(5):
        shuffled = cells[:]
        random.Random(seed).shuffle(shuffled)
        pd.testing.assert_frame_equal(runs, runs_table(shuffled))
    with_memory = runs[runs["buffer"].notna()]
    budgets = list(zip(*(with_memory[name] for name in ("scenario", "budget_split", "storage")), strict=True))
    assert len(list(groupby(budgets))) == len(set(budgets)), "rows of one budget are adjacent"


def test_splits_storages_and_masses_are_separate_results(tmp_path):
    """Cells with any difference have separate entries, also after reading the file."""
    cells = unequal_grid()
    write_runs(runs_table(cells), tmp_path / "runs.csv")
    entries = summarise(read_runs(tmp_path / "runs.csv"))
    assert len(entries) == 2 * len(cells)
    assert {len(entry.seeds) for entry in entries} == {3}
    splits = {entry.budget_split for entry in entries if entry.buffer is not None}
    assert splits == {"equal", "carry", "1/1/2", "1/1/1.000000001", "1/1/1"}
    assert {e.storage for e in entries if e.buffer is not None} == {"float32", "float16", "int8"}
    assert {(e.theta, e.mass) for e in entries if e.is_sharc} == {(0.5, None), (None, 0.5), (None, 0.9)}


def test_a_split_that_differs_in_its_last_digit_is_not_the_same_run():
    for one, other in (([1.0, 2.0], [1.0, 2.0 + 1e-6]), ([0.1, 0.2], [0.1, 0.1 + 0.1 + 2**-54])):
        assert one != other
        documents = [make_document("er", budget_split=split) for split in (one, other)]
        assert runs_table(documents)["budget_split"].nunique() == 2


def test_reading_keeps_bits_types_and_names_that_look_like_numbers_or_missing_values(tmp_path):
    cells = make_grid(datasets=("NA", "007", "null"), methods=("sgd", "joint", "er"), tasks=4)
    cells += make_grid(("x",), ("er",), seeds=[0])
    cells[3]["config_hash"] = "12345678"
    cells[4]["config_hash"] = "1e100000"
    for document in cells:
        if document["cell"]["variant"] == "sharc":
            document["cell"]["associative_memory"] = "none"
    runs = runs_table(cells)
    write_runs(runs, tmp_path / "runs.csv")
    again = read_runs(tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(runs, again, check_exact=True)
    write_runs(again, tmp_path / "again.csv")
    assert (tmp_path / "runs.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["again.csv", "runs.csv"]


def test_documents_from_json_give_the_same_runs():
    document = make_document("joint")
    runs = runs_table([json.loads(json.dumps(document, allow_nan=False))])
    pd.testing.assert_frame_equal(runs, runs_table([document]))


def test_task_il_below_class_il_raises_an_error_that_names_the_cell():
    matrices = {
        "task_il": constant_matrix([80.0, 80.0]),
        "class_il": constant_matrix([80.0, 80.0 + 1e-6]),
    }
    document = make_document("agem", matrices=matrices, seeds=[3, 5])
    with pytest.raises(AssertionError, match=r"s_digits/tiny/agem/plain/100, seed 5: .* task 1 after task 2"):
        runs_table([document])
    matrices["class_il"] = constant_matrix([80.0, 80.0 + 1e-10])
    assert len(runs_table([make_document("agem", matrices=matrices, seeds=[3, 5])])) == 4


def test_scenarios_that_are_not_reported_are_checked_too():
    matrices = {"task_il": constant_matrix([50.0]), "class_il": constant_matrix([60.0])}
    with pytest.raises(AssertionError, match="defect"):
        runs_table([make_document("er", matrices=matrices, seeds=[0])], [{"task_il": ["main"]}])


def test_entries_that_were_not_evaluated_do_not_count_as_violations():
    assert np.isnan(runs_table([make_document("joint")])["bwt"]).all()


@pytest.mark.reliability("damaged-json")
def test_bad_input_is_one_line():
    with pytest.raises(UserError, match="empty"):
        runs_table([])
    twice = [make_document("er"), make_document("er")]
    with pytest.raises(UserError, match="two results of the same run.*er plain, buffer 100, seed 0"):
        runs_table(twice)
    damaged = make_document("er")
    del damaged["costs"]["learner_bytes"]
    with pytest.raises(UserError, match=r"s_digits/tiny/er/plain/100 is damaged \(no 'learner_bytes'\)"):
        runs_table([damaged])
    del damaged["cell"]
    with pytest.raises(
        UserError, match=r"the result of a cell without a name \(its config_hash: .*\(no 'cell'\)"
    ):
        runs_table([damaged])
    short = make_document("er")
    short["matrix"]["task_il"] = short["matrix"]["task_il"][:2]
    with pytest.raises(UserError, match="for 3 seeds"):
        runs_table([short])


@pytest.mark.reliability("damaged-json")
def test_files_that_are_no_runs(tmp_path):
    with pytest.raises(UserError, match="missing"):
        read_runs(tmp_path / "none.csv")
    path = tmp_path / "runs.csv"
    path.write_text("")
    with pytest.raises(UserError, match="not a table of runs"):
        read_runs(path)
    runs_table([make_document("er")]).to_csv(path, index=False)
    path.write_text(path.read_text().replace(",100,", ",many,"))
    with pytest.raises(UserError, match="not a table of runs .*'many'"):
        read_runs(path)
    path.write_text("dataset,acc\ns_digits,90\n")
    with pytest.raises(UserError, match="no column 'backbone'"):
        read_runs(path)


def test_columns_keep_their_types():
    runs = runs_table(make_grid())
    for name, kind in COLUMNS.items():
        assert str(runs[name].dtype) == ("object" if kind == "str" else kind)
