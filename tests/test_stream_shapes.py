"""Streams of any shape: sizes, listed classes, class orders, one order per run, i.i.d. and blurry orders."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from factories import make_cell, make_features
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_config import changed
from test_drifting import IMAGES, SHAPE, drifting_cell, make_small

from sharc_core.common.errors import UserError
from sharc_core.features.drifting.extract import Extraction
from sharc_core.features.drifting.reading import open_drifting
from sharc_core.grid.drifting_parts import extent, kept_for, parts_of
from sharc_core.grid.loading import load_grid
from sharc_core.grid.models import DatasetConfig, config_hash
from sharc_core.grid.overrides import with_overrides
from sharc_core.grid.unroll import cells
from sharc_core.learning import metrics
from sharc_core.learning.cell_memory import budget_of
from sharc_core.learning.documents import joined, selected, task_sizes
from sharc_core.learning.learner import run_cell
from sharc_core.memory.budget import Budget
from sharc_core.results.published import no_published
from sharc_core.results.runs import COLUMNS, WEIGHTED, read_runs, runs_table, write_runs
from sharc_core.results.summary import summarise
from sharc_core.results.tables import write_tables
from sharc_core.stages.preflight import check_inputs
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import make_stream, split_classes

FEATURES = make_features()
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1)


def numbers(document: dict) -> dict:
    """What a training gave, without times, settings and origin."""
    costs = {name: value for name, value in document["costs"].items() if name != "train_seconds"}
    return {name: document[name] for name in ("seeds", "matrix", "untrained", "classes_per_task")} | costs


def stream_of(config: StreamConfig, classes: int, per_class: int = 10):
    labels = torch.arange(classes).repeat_interleave(per_class)
    return labels, make_stream(labels, labels, classes, config)


# --- sizes and orders -------------------------------------------------------------------------------


@given(sizes=SIZES, seed=st.one_of(st.none(), st.integers(0, 9)))
def test_sizes_add_up_and_partition_the_classes(sizes, seed):
    config = StreamConfig(tasks=sizes, class_order_seed=seed)
    parts = split_classes(sum(sizes), config)
    assert [len(part) for part in parts] == sizes and config.count == len(sizes)
    assert sorted(sum(parts, [])) == list(range(sum(sizes)))
    assert sum(config.shares) == 1 and config.shares[0] == Fraction(sizes[0], sum(sizes))


@given(tasks=st.integers(1, 5), size=st.integers(2, 4), seed=st.one_of(st.none(), st.integers(0, 9)))
def test_a_number_of_tasks_is_a_list_of_equal_sizes(tasks, size, seed):
    a, b = (
        split_classes(tasks * size, StreamConfig(tasks=given_as, class_order_seed=seed))
        for given_as in (tasks, [size] * tasks)
    )
    assert a == b
    assert StreamConfig(tasks=[size] * tasks).weights is None


@given(order=st.permutations(range(6)), sizes=st.sampled_from([[2, 2, 2], [3, 1, 2], [6]]))
def test_an_order_of_classes_is_taken_as_it_is(order, sizes):
    names = [f"c{n}" for n in range(6)]
    by_number = split_classes(names, StreamConfig(tasks=sizes, class_order=list(order)))
    by_name = split_classes(names, StreamConfig(tasks=sizes, class_order=[names[n] for n in order]))
    ends = list(itertools.accumulate(sizes))
    listed = [[names[n] for n in order[end - size : end]] for end, size in zip(ends, sizes, strict=True)]
    assert by_number == by_name == split_classes(names, StreamConfig(tasks=listed))
    assert sum(by_number, []) == list(order)


@pytest.mark.parametrize(("method", "variant"), [("er", "sharc"), ("gem", "plain"), ("joint", "plain")])
def test_equal_sizes_give_the_bits_of_the_number(method, variant):
    by_number = run_cell(FEATURES, make_cell(method, variant))
    by_list = run_cell(FEATURES, make_cell(method, variant, tasks=[2, 2, 2]))
    assert numbers(by_number) == numbers(by_list)
    assert by_list["cell"]["tasks"] == [2, 2, 2] and by_number["config_hash"] != by_list["config_hash"]


@settings(max_examples=15, deadline=None)
@given(permutation=st.permutations(range(6)))
def test_permuted_names_and_a_permuted_order_give_permuted_results(permutation):
    """NCM treats all classes alike, so other numbers of the same classes change nothing but the numbers."""
    to = torch.tensor(permutation)
    other = make_features()
    other.train_labels, other.test_labels = to[FEATURES.train_labels], to[FEATURES.test_labels]
    other.classes = [str(permutation.index(n)) for n in range(6)]
    order = ["4", "1", "0", "5", "3", "2"]
    one = run_cell(FEATURES, make_cell("ncm", tasks=[3, 1, 2], class_order=order, seeds=[0]))
    two = run_cell(other, make_cell("ncm", tasks=[3, 1, 2], class_order=order, seeds=[0]))
    assert one["matrix"] == two["matrix"]
    permuted = [[permutation[label] for label in task] for task in one["classes_per_task"]]
    assert two["classes_per_task"] == permuted


def test_another_order_of_whole_tasks_permutes_the_last_row_of_joint_like_methods():
    """NCM ends with the same class means in whatever order the tasks came."""
    one = run_cell(FEATURES, make_cell("ncm", tasks=[["0", "3"], ["1"], ["2", "4", "5"]], seeds=[0]))
    two = run_cell(FEATURES, make_cell("ncm", tasks=[["2", "4", "5"], ["0", "3"], ["1"]], seeds=[0]))
    last, other = (np.array(document["matrix"]["class_il"])[0, -1] for document in (one, two))
    np.testing.assert_array_equal(last, other[[1, 2, 0]])


# --- one order per run --------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"tasks": [3, 1, 2]}, {"order": "blurry", "blurry": 0.2}])
def test_each_run_has_the_bits_of_a_grid_with_its_order(changes):
    together = run_cell(FEATURES, make_cell("er", class_order_seed="per_run", seeds=[0, 3, 5], **changes))
    orders = together["classes_per_task"]
    assert len(orders) == 3 and orders[0] != orders[1]
    for place, seed in enumerate((0, 3, 5)):
        alone = run_cell(FEATURES, make_cell("er", class_order_seed=seed, seeds=[seed], **changes))
        assert numbers(selected(together, [seed])) == numbers(alone) | {
            "classes_per_task": [alone["classes_per_task"]]
        }
        assert orders[place] == alone["classes_per_task"]
    assert together["cell"]["class_order_seed"] == "per_run"
    assert together["trainings"][0]["seeds"] == [0, 3, 5]


def test_documents_of_runs_with_their_own_orders_are_joined_and_taken_apart():
    changes = {"class_order_seed": "per_run", "tasks": [4, 2]}
    parts = [run_cell(FEATURES, make_cell("sgd", seeds=[seed], **changes)) for seed in (2, 0)]
    whole = joined(parts)
    assert whole["seeds"] == [0, 2]
    assert whole["classes_per_task"] == [parts[1]["classes_per_task"][0], parts[0]["classes_per_task"][0]]
    assert numbers(selected(whole, [2])) == numbers(parts[0])
    assert task_sizes(whole) == [4, 2]
    assert len(runs_table([whole])) == 4


# --- i.i.d. and blurry --------------------------------------------------------------------------------


@given(sizes=SIZES.filter(lambda s: len(s) > 1), seed=st.one_of(st.none(), st.integers(0, 3)))
def test_iid_parts_are_equal_and_hold_every_image_once(sizes, seed):
    labels, stream = stream_of(StreamConfig(tasks=sizes, order="iid", class_order_seed=seed), sum(sizes))
    assert torch.equal(torch.cat(stream.train).sort().values, torch.arange(len(labels)))
    lengths = [len(part) for part in stream.train]
    assert max(lengths) - min(lengths) <= 1
    plain = stream_of(StreamConfig(tasks=sizes, class_order_seed=seed), sum(sizes))[1]
    assert (
        all(map(torch.equal, stream.test, plain.test)) and stream.classes_per_task == plain.classes_per_task
    )
    assert stream.classes_seen(len(sizes) - 1) and stream.classes == sum(sizes)
    assert stream.classes_trained(0) == labels[stream.train[0]].unique().tolist()


@given(
    tasks=st.integers(2, 5),
    share=st.floats(0.02, 0.98),
    seed=st.one_of(st.none(), st.integers(0, 3)),
)
def test_blurry_tasks_have_that_share_of_other_tasks_images(tasks, share, seed):
    config = StreamConfig(tasks=tasks, order="blurry", blurry=share, class_order_seed=seed)
    labels, stream = stream_of(config, 2 * tasks)
    assert torch.equal(torch.cat(stream.train).sort().values, torch.arange(len(labels)))
    for index, own in zip(stream.train, stream.classes_per_task, strict=True):
        assert len(index) == 20
        foreign = ~torch.isin(labels[index], torch.tensor(own))
        assert int(foreign.sum()) == round(20 * share)


def test_blurry_samples_of_a_task_come_from_all_others():
    labels, stream = stream_of(StreamConfig(tasks=4, order="blurry", blurry=0.5), 8, per_class=200)
    for index, own in zip(stream.train, stream.classes_per_task, strict=True):
        found = Counter(int(label) // 2 for label in labels[index] if int(label) not in own)
        assert len(found) == 3 and min(found.values()) > 30


def test_one_task_of_more_than_half_gives_what_the_others_can_take():
    labels, stream = stream_of(StreamConfig(tasks=[8, 1], order="blurry", blurry=0.5), 9)
    assert [len(index) for index in stream.train] == [80, 10]
    assert int((labels[stream.train[1]] < 8).sum()) == 5 == int((labels[stream.train[0]] == 8).sum())


@pytest.mark.parametrize("changes", [{"order": "iid"}, {"order": "blurry", "blurry": 0.3}])
@pytest.mark.parametrize(
    "method", ["er", "er_ace", "gem", "derpp", "clser", "ncm", "slda", "ridge", "fecam", "knn"]
)
def test_every_kind_of_method_runs_in_these_orders(method, changes):
    changes = changes | ({"selection": "reservoir"} if method == "er_ace" else {})
    document = run_cell(FEATURES, make_cell(method, seeds=[0, 1], **changes))
    assert np.isfinite(np.array(document["matrix"]["class_il"], dtype=float)).all()


def test_joint_training_does_not_depend_on_the_order_of_the_stream():
    one, other = (run_cell(FEATURES, make_cell("joint", **changes)) for changes in ({}, {"order": "iid"}))
    assert numbers(one) == numbers(other)


# --- budgets ------------------------------------------------------------------------------------------


@given(
    sizes=SIZES,
    unit=st.sampled_from(["slots", "floats", "nonzero", "bytes"]),
    buffer=st.integers(1, 1000),
    carry=st.booleans(),
)
def test_shares_by_class_never_exceed_the_budget(sizes, unit, buffer, carry):
    weights = StreamConfig(tasks=sizes).weights
    budget = Budget(unit, buffer, len(sizes), (12, 2, 2), weights=weights, carry=carry)
    allowances = [budget.allowance(task) for task in range(len(sizes))]
    slots = buffer * 48 if unit == "nonzero" else budget.total
    assert sum(allowances) <= slots
    for size, allowance in zip(sizes, allowances, strict=True):
        exact = Fraction(slots * size, sum(sizes))
        assert abs(allowance - exact) <= (48 if unit == "nonzero" else 1)


@pytest.mark.parametrize("unit", ["slots", "floats", "nonzero", "bytes"])
@pytest.mark.parametrize("variant", ["plain", "sharc"])
def test_memories_of_unequal_tasks_stay_within_the_budget(unit, variant):
    cell = make_cell("er", variant, tasks=[3, 1, 2], buffer=24, budget_unit=unit, seeds=[0, 1])
    document = run_cell(FEATURES, cell)
    stored, held = (document["costs"][name] for name in ("samples_stored", "episodic_bytes"))
    if unit == "slots":
        assert stored == [24, 24]
    if unit == "bytes":
        assert max(held) <= budget_of(cell, (12, 2, 2), 6).total
    if unit == "floats":
        assert stored == [24 if variant == "plain" else 48] * 2


@pytest.mark.parametrize("buffer", [12, 30])
def test_an_associative_memory_that_is_charged_stays_within_the_budget(buffer):
    changes = {"budget_unit": "bytes", "count_associative_memory": True, "seeds": [0]}
    cell = make_cell("er", "sharc", tasks=[3, 1, 2], buffer=buffer, **changes)
    costs = run_cell(FEATURES, cell)["costs"]
    assert costs["associative_bytes"][0] > 0
    assert costs["episodic_bytes"][0] + costs["associative_bytes"][0] <= budget_of(cell, (12, 2, 2), 6).total


def test_a_share_that_holds_nothing_is_refused():
    with pytest.raises(UserError, match="holds no sample of task 2 of 3: its share is 0 slots"):
        budget_of(make_cell("er", tasks=[3, 1, 2], buffer=5, budget_unit="slots"), (12, 2, 2), 6)


# --- drifting features --------------------------------------------------------------------------------


def test_drifting_features_of_unequal_tasks_hold_what_the_cells_read(tmp_path):
    """The maps kept are enough for the largest task, and the extent of each part is known beforehand."""
    shape = {"tasks": [3, 1, 2], "class_order": [5, 0, 3, 1, 4, 2]}
    labels = (torch.from_numpy(np.array(x)) for x in (IMAGES.train_labels, IMAGES.test_labels))
    stream = make_stream(*labels, IMAGES.manifest["classes"], StreamConfig(**shape))
    cells = [drifting_cell("er", variant, seeds=[0], buffer=24, **shape) for variant in ("plain", "sharc")]
    kept = kept_for(cells)
    folders = []
    for part in parts_of(cells, kept):
        source = part.source(kept).name if part.kind == "tests" else "none"
        extraction = Extraction(IMAGES, stream, make_small())
        extraction.run(part, tmp_path / part.name, tmp_path / source)
        counts = {"train": len(IMAGES.train_labels), "test": len(IMAGES.test_labels)}
        assert extent(part, counts, StreamConfig(**shape), SHAPE)[0] == extraction.tally.total
        folders.append(tmp_path / part.name)
    for cell in cells:
        document = run_cell(open_drifting(folders), cell)
        assert document["classes_per_task"] == [[5, 0, 3], [1], [4, 2]]
        assert document["costs"]["samples_stored"] == [24 if cell.variant == "plain" else 48]
        assert np.isfinite(np.array(document["matrix"]["class_il"], float)[0].diagonal()).all()


# --- metrics ------------------------------------------------------------------------------------------


@given(sizes=SIZES, seed=st.integers(0, 99))
def test_weighted_means_are_obvious_loops(sizes, seed):
    a = np.random.default_rng(seed).uniform(0, 100, (2, len(sizes), len(sizes)))
    for one, acc, aia in zip(a, metrics.acc_weighted(a, sizes), metrics.aia_weighted(a, sizes), strict=True):
        per_class = [one[-1][j] for j, size in enumerate(sizes) for _ in range(size)]
        assert acc == pytest.approx(sum(per_class) / len(per_class))
        after = []
        for i in range(len(sizes)):
            seen = [one[i][j] for j, size in enumerate(sizes[: i + 1]) for _ in range(size)]
            after.append(sum(seen) / len(seen))
        assert aia == pytest.approx(sum(after) / len(after))
    assert metrics.acc(a) == pytest.approx(a[:, -1].mean(-1))


def test_acc_by_class_is_the_accuracy_on_all_test_images(tmp_path):
    """Every class has 15 test images; the columns are there only where tasks differ in size."""
    unequal = run_cell(FEATURES, make_cell("ncm", tasks=[3, 1, 2], seeds=[0], dataset="unequal"))
    equal = run_cell(FEATURES, make_cell("ncm", seeds=[0], dataset="equal"))
    assert list(runs_table([equal]).columns) == list(COLUMNS)
    runs = runs_table([unequal, equal])
    assert list(runs.columns) == [*COLUMNS, *WEIGHTED]
    write_runs(runs, tmp_path / "runs.csv")
    assert read_runs(tmp_path / "runs.csv").equals(runs)
    rows = runs[runs.scenario == "class_il"].set_index("dataset")
    last = np.array(unequal["matrix"]["class_il"])[0, -1]
    right = sum(round(accuracy * 15 * size / 100) for accuracy, size in zip(last, (3, 1, 2), strict=True))
    assert rows.acc_weighted["unequal"] == pytest.approx(100 * right / 90)
    assert rows.acc["unequal"] == pytest.approx(last.mean())
    assert np.isnan([rows.acc_weighted["equal"], rows.aia_weighted["equal"]]).all()
    assert {entry.dataset for entry in summarise(runs) if entry.has_unequal_tasks} == {"unequal"}
    write_tables(runs, no_published(), tmp_path)
    text = (tmp_path / "class_il.md").read_text()
    assert text.count("by class |") == 1 and "count each task once; by class: sum_j c_j a[T][j]" in text
    assert "acc_weighted_mean" in (tmp_path / "class_il.csv").read_text().splitlines()[0]


# --- what older grids and documents hold --------------------------------------------------------------


def test_new_keys_with_their_defaults_are_in_no_dump():
    """Documents, identities and hashes of grids that use none of them are what they were."""
    assert StreamConfig(tasks=5).document == {"tasks": 5, "class_order_seed": None}
    block = {"source": "digits", "tasks": 5, "test_fraction": 0.5}
    assert DatasetConfig(**block).model_dump() == {**block, "class_order_seed": None}
    grid = load_grid(changed("datasets.s_digits.tasks", [4, 2, 2, 2]))
    assert grid.model_dump()["datasets"]["s_digits"] == {
        "source": "digits",
        "tasks": [4, 2, 2, 2],
        "class_order_seed": None,
    }
    assert {cell.config_hash for cell in cells(grid)} and config_hash(grid.model_dump(mode="json"))


def test_streams_can_be_given_on_the_command_line():
    """Snakemake passes everything in a block as text."""
    parts = [{"source": "digits"}, {"source": "glyphs", "classes": "4", "name": "7"}]
    mix = {"source": "sequence", "parts": parts, "order": "blurry", "blurry": "0.1"}
    given = {"tasks": ["4", "2", "2", "2"], "class_order_seed": "3"}
    block = {"s_digits": {"source": "digits"} | given, "mix": mix}
    grid = load_grid(
        with_overrides(changed("datasets", block), {"datasets": {"s_digits": given, "mix": mix}})
    )
    assert grid.datasets["s_digits"].tasks == [4, 2, 2, 2] and grid.datasets["s_digits"].class_order_seed == 3
    assert grid.datasets["mix"].tasks == [10, 4] and grid.datasets["mix"].blurry == 0.1
    assert grid.datasets["mix"].model_extra["parts"][1] == {"source": "glyphs", "classes": 4, "name": "7"}
    given = {"class_order_seed": "per_run", "tasks": "2"}
    values = changed("datasets.s_digits", {"source": "digits"} | given)
    grid = load_grid(with_overrides(values, {"datasets": {"s_digits": given}}))
    assert grid.datasets["s_digits"].is_per_run and grid.datasets["s_digits"].tasks == 2


# --- bad input ----------------------------------------------------------------------------------------

DIGITS = [str(n) for n in range(10)]
BAD = [
    ({"tasks": [4, 2, 2]}, r"tasks: \[4, 2, 2\] adds up to 8, but the data set has 10 classes"),
    ({"tasks": [10, 0]}, r"tasks\.1: .*greater than or equal to 1 \(got 0\)"),
    ({"tasks": []}, "tasks: the list is empty: give the size or the classes of at least one task"),
    ({"tasks": [5, ["1"]]}, "tasks: give the size of every task or the classes of every task, not both"),
    ({"tasks": [DIGITS[:5], DIGITS[5:9]]}, "tasks lacks class '9': list each of the 10 classes once"),
    ({"tasks": [DIGITS[:5], DIGITS[4:]]}, "tasks: class '4' is listed twice"),
    ({"tasks": [["zero"], DIGITS[1:]]}, "tasks: the data set has no class 'zero'.*label numbers from 0 to 9"),
    ({"tasks": [[0, "0"], DIGITS[1:]]}, "tasks has twice class '0'"),
    ({"tasks": [DIGITS], "class_order_seed": 1}, "tasks lists the classes .* class_order_seed has no effect"),
    (
        {"tasks": 10},
        "tasks: task 1 has one class, which scenario task_il always gets right: take task_il out",
    ),
    ({"tasks": [9, 1]}, "tasks: task 2 has one class"),
    ({"tasks": 5, "class_order": DIGITS[:9]}, "class_order lacks class '9'"),
    ({"tasks": 5, "class_order": [*DIGITS, "0"]}, "class_order: class '0' is listed twice"),
    ({"tasks": 5, "class_order": [*DIGITS[:9], 11]}, "class_order: the data set has no class 11"),
    ({"tasks": 5, "class_order": DIGITS, "class_order_seed": 0}, "class_order and class_order_seed exclude"),
    ({"tasks": 5, "class_order_seed": "each"}, "class_order_seed: .*'each'"),
    ({"tasks": 5, "order": "random"}, "order: .*'random'"),
    ({"tasks": 5, "order": "blurry"}, "order blurry and blurry, the share .* need each other"),
    ({"tasks": 5, "blurry": 0.1}, "order blurry and blurry, the share .* need each other"),
    ({"tasks": 5, "order": "blurry", "blurry": 1.0}, "blurry: .*less than 1"),
    ({"tasks": 1, "order": "iid"}, "order iid has no effect with a single task"),
    ({"tasks": 10**10}, "datasets.s_digits.tasks: .*100000"),
    ({"tasks": 5, "labels": "same"}, "datasets.s_digits.labels: same needs several parts"),
    ({"tasks": [8, 1, 1], "class_order_seed": 10**30}, "class_order_seed: numbers go up to"),
]


@pytest.mark.reliability("bad-streams", "bad-tasks")
@pytest.mark.parametrize(("block", "message"), BAD)
def test_a_stream_that_does_not_fit_is_one_line_before_any_job(block, message):
    with pytest.raises(UserError, match=message) as caught:
        check_inputs(load_grid(changed("datasets.s_digits", {"source": "digits", **block})))
    assert str(caught.value).isprintable() and str(caught.value).startswith("config: ")


@pytest.mark.reliability("bad-streams")
@pytest.mark.parametrize("batch_norm", ["drifting", "adapted"])
@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"class_order_seed": "per_run"}, "class_order_seed per_run"),
        ({"order": "iid"}, "order iid"),
        ({"order": "blurry", "blurry": 0.1}, "order blurry"),
    ],
)
def test_features_that_depend_on_the_stream_need_one_stream(batch_norm, change, key):
    values = changed("datasets.s_digits", {"source": "digits", "tasks": 5} | change)
    load_grid(values)
    values["backbone"]["batch_norm"] = ["frozen", batch_norm]
    with pytest.raises(UserError, match=f"s_digits: {key} cannot be combined with batch_norm {batch_norm}"):
        load_grid(values)
    if batch_norm == "drifting":
        values["backbone"]["batch_norm"] = "frozen"
        with pytest.raises(UserError, match=key):
            load_grid(values | {"protocol": "paper+batch_norm"})


def test_tasks_of_one_class_are_fine_in_class_il_alone():
    values = changed("scenarios", ["class_il"]) | {
        "datasets": {"s_digits": {"source": "digits", "tasks": 10}}
    }
    check_inputs(load_grid(values))
    values["studies"] = {"x": {"scenarios": ["task_il"]}}
    with pytest.raises(UserError, match="task 1 has one class"):
        check_inputs(load_grid(values))


def test_one_class_tasks_are_always_right_in_task_il():
    document = run_cell(FEATURES, make_cell("er", tasks=6, seeds=[0]))
    assert set(np.array(document["matrix"]["task_il"]).ravel()) == {100.0}


def test_a_data_set_of_one_class_is_no_stream():
    with pytest.raises(UserError, match="needs at least two"):
        split_classes(1, StreamConfig(tasks=1))
    with pytest.raises(ValidationError, match="has no effect"):
        StreamConfig(tasks=1, order="iid")
