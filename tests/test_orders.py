"""The study `orders`: planted effects of order and seed are found; intervals, cells, files, refusals."""

import numpy as np
import pandas as pd
import pytest
import scipy
import yaml
from factories import make_cell
from result_factory import made_by
from snake import ROOT
from test_config import BASE
from test_task_count import as_features

from sharc_core.common.errors import UserError
from sharc_core.grid.cell import Training
from sharc_core.grid.loading import load_grid
from sharc_core.learning.learner import run_cell
from sharc_core.learning.metrics import acc, bwt
from sharc_core.streams.settings import StreamConfig
from sharc_core.streams.stream import split_classes
from sharc_core.studies.orders import Orders
from sharc_core.studies.orders.components import components, mean_interval, mean_squares
from sharc_core.studies.orders.figure import order_figure, write_order_figure
from sharc_core.studies.orders.measure import run_orders
from sharc_core.studies.orders.settings import COLUMNS, OrderJob, OrderSettings
from sharc_core.studies.orders.table import sentences, summary, tables, write_order_tables
from sharc_core.studies.registered import study_of
from sharc_core.studies.rows import read_rows, write_rows


def drawn(order: float, seed: float, residual: float, sizes=(5, 5), draw: int = 0) -> np.ndarray:
    """A table of orders by seeds with effects of these standard deviations."""
    rng = np.random.default_rng([draw, 7])
    table = 50 + order * rng.standard_normal((sizes[0], 1)) + seed * rng.standard_normal((1, sizes[1]))
    return table + residual * rng.standard_normal(sizes)


# --- variance components -----------------------------------------------------------------------------


def test_components_are_those_of_the_analysis_of_variance():
    """Against sums written out, and an exact table without noise."""
    table = drawn(3, 1, 0.5, (4, 6))
    found, (orders, seeds) = components(table), table.shape
    grand = table.mean()
    by_order = sum(seeds * (row.mean() - grand) ** 2 for row in table) / (orders - 1)
    by_seed = sum(orders * (column.mean() - grand) ** 2 for column in table.T) / (seeds - 1)
    rest = sum(
        (table[o, s] - table[o].mean() - table[:, s].mean() + grand) ** 2
        for o in range(orders)
        for s in range(seeds)
    ) / ((orders - 1) * (seeds - 1))
    assert found.order.value == pytest.approx((by_order - rest) / seeds)
    assert found.seed.value == pytest.approx((by_seed - rest) / orders)
    assert found.residual.value == pytest.approx(rest)
    exact = components(np.array([[1.0, 2, 3], [3.0, 4, 5]]))
    assert (exact.order.value, exact.seed.value, exact.residual.value) == pytest.approx((2, 1, 0))
    assert (exact.excess.value, exact.share.value) == pytest.approx((1, 2 / 3))
    # mean squares 25/6, 19/6 and 1/6
    exact = components(np.array([[1.0, 2, 4], [3.0, 4, 5]]))
    assert (exact.order.value, exact.seed.value, exact.residual.value) == pytest.approx((4 / 3, 3 / 2, 1 / 6))
    assert (exact.excess.value, exact.share.value) == pytest.approx((-1 / 6, 4 / 9))


def test_orders_and_seeds_are_compared_alike():
    """The comparison of the transposed table is the opposite one, with an interaction of any size."""
    for residual in (0.1, 3.0):
        found, opposite = (components(table) for table in (drawn(3, 1, residual), drawn(3, 1, residual).T))
        assert found.excess.value == pytest.approx(-opposite.excess.value)
        width = found.excess.high - found.excess.low
        assert found.excess.low == pytest.approx(-opposite.excess.high, abs=0.05 * width)
        assert found.excess.high == pytest.approx(-opposite.excess.low, abs=0.05 * width)


def test_lower_bounds_are_above_zero_where_the_f_test_rejects():
    """With as many orders as seeds the comparison is one of two mean squares, whatever the residual."""
    critical, main = scipy.stats.f.ppf(0.975, 4, 4), scipy.stats.f.ppf(0.975, 4, 16)
    rejected = 0
    for draw in range(120):
        table = drawn(2.5, 1, 1, draw=draw)
        squares, _ = mean_squares(table)
        found = components(table)
        tests = [
            (found.excess.low > 0, squares[0] / squares[1] / critical),
            (found.excess.high < 0, squares[1] / squares[0] / critical),
            (found.order.low > 0, squares[0] / squares[2] / main),
            (found.seed.low > 0, squares[1] / squares[2] / main),
        ]
        for is_apart, ratio in tests:
            assert is_apart == (ratio > 1) or abs(ratio - 1) < 0.1, "of drawn quantiles"
            rejected += is_apart
    assert 150 <= rejected <= 300, rejected


def test_the_interval_of_a_mean_is_that_of_its_formula():
    """Against t quantiles and sums worked out by hand, with and without a part that is dominant."""
    found = mean_interval(np.array([[1.0, 2, 4], [3.0, 4, 5]]))
    half = scipy.stats.t.ppf(0.975, 1849 / 806) * np.sqrt(43 / 36)
    assert [found.value, found.low, found.high] == pytest.approx([19 / 6, 19 / 6 - half, 19 / 6 + half])
    found = mean_interval(np.array([[0.0, 0, 6], [0.0, 6, 0]]))  # mean squares 0, 6 and 18
    assert [found.low, found.high] == pytest.approx([2 - 4.302653, 2 + 4.302653], abs=1e-5)


def test_the_residual_interval_is_that_of_the_chi_squared_distribution():
    table = drawn(3, 1, 0.5)
    found, freedom = components(table), 16
    ends = found.residual.value * freedom / scipy.stats.chi2.ppf([0.975, 0.025], freedom)
    assert [found.residual.low, found.residual.high] == pytest.approx(ends, rel=0.02)


@pytest.mark.parametrize(
    ("order", "seed", "residual", "sizes"),
    [(2, 1, 0.5, (5, 5)), (0.5, 2, 1, (5, 5)), (0, 0, 1, (5, 5)), (1, 1, 2, (3, 8))],
)
def test_intervals_cover_the_truth(order, seed, residual, sizes):
    """About 95 % of intervals hold what the tables were drawn with, and no more: they are not too wide."""
    truth = {"order": order**2, "seed": seed**2, "excess": order**2 - seed**2, "residual": residual**2}
    truth |= {"share": order**2 / (order**2 + seed**2 + residual**2), "mean": 50.0}
    held = dict.fromkeys(truth, 0)
    tables = 250
    for draw in range(tables):
        table = drawn(order, seed, residual, sizes, draw)
        found = components(table)
        for name, value in truth.items():
            estimate = mean_interval(table) if name == "mean" else getattr(found, name)
            held[name] += estimate.low <= value <= estimate.high
    assert all(count >= 0.91 * tables for count in held.values()), held
    wide = {"share"} | ({"mean"} if order == seed == 0 else set())  # truncated, or without the residual
    assert all(count <= 0.985 * tables for name, count in held.items() if name not in wide), held


def test_a_table_without_variance_or_with_gaps():
    found = components(np.full((3, 4), 7.0))
    assert found.share.value == found.order.low == found.excess.high == 0
    assert mean_interval(np.full((3, 4), 7.0)).low == 7
    for table in (np.ones((1, 4)), np.ones((3, 1)), np.array([[1.0, np.nan], [2.0, 3.0]])):
        with pytest.raises(ValueError, match="a complete table"):
            components(table)


# --- planted effects in rows -------------------------------------------------------------------------


def rows_of(tables: dict[tuple[str, str, str], np.ndarray], scenario: str = "class_il") -> pd.DataFrame:
    """Rows with these accuracies by method, variant and stream; orders are numbered from 10."""
    rows = []
    for (method, variant, stream), table in tables.items():
        for (order, seed), accuracy in np.ndenumerate(table):
            row = {"dataset": "s_digits", "backbone": "tiny", "stream": stream, "class_order": 10 + order}
            row |= {"method": method, "variant": variant, "scenario": scenario, "seed": seed}
            rows.append(row | {"acc": accuracy, "bwt": -5.0})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def test_a_planted_order_effect_is_found_and_a_planted_seed_effect_too():
    tables = {
        ("er", "plain", "tasks"): drawn(8, 0, 0.5),
        ("sgd", "plain", "tasks"): drawn(0, 8, 0.5),
    }
    rows = rows_of(tables)
    lines = summary(rows).set_index("label")
    assert lines.varies_more.to_dict() == {"SGD": "seeds", "ER": "orders"}
    assert lines.order_found.to_dict() == {"SGD": False, "ER": True}
    assert lines.seed_found.to_dict() == {"SGD": True, "ER": False}
    assert lines.share["ER"] > 0.9 and lines.share_high["SGD"] < 0.1
    (sentence,) = sentences(rows)
    more, less = sentence.split("; ")
    assert more.startswith("s_digits (tiny), Class-IL, sharp tasks: the class order varies ACC more than")
    assert "ER (deviation by order " in more and "SGD" not in more
    assert less.startswith("the seed varies ACC more") and less.count("(not told apart from zero)") == 1
    for text, name in ((more, "er"), (less, "sgd")):
        found = components(tables[name, "plain", "tasks"].round(9))
        for part in ("order", "seed", "residual"):
            estimate = getattr(found, part)
            shown = np.sqrt(np.maximum(0, [estimate.value, estimate.low, estimate.high]))
            assert "{} {:.2f} [{:.2f}, {:.2f}]".format(part, *shown) in text
    assert "not told apart" not in less.split("seed ")[-1], "of the part that is found"


@pytest.mark.parametrize(("order", "seed", "residual"), [(0, 0, 2), (1, 1, 3), (2, 2, 0.1)])
def test_noise_alone_is_no_effect(order, seed, residual):
    """Where orders and seeds have equal effects, few are told apart: 2.5 % in each direction.

    All of the noise may be the interaction, which is credited to neither. Of 150 tables 4 are expected.
    """
    count = 150
    rows = pd.concat(
        rows_of({("er", "plain", "tasks"): drawn(order, seed, residual, draw=draw)}).assign(
            dataset=f"d{draw}"
        )
        for draw in range(count)
    )
    lines = summary(rows)
    verdicts = lines.varies_more.value_counts()
    assert len(lines) == count and verdicts.get("orders", 0) <= 8 and verdicts.get("seeds", 0) <= 8
    if order == 0:
        assert lines.order_found.sum() <= 8 and lines.seed_found.sum() <= 8
    assert not (lines.order_found < (lines.varies_more == "orders")).any()
    assert not (lines.seed_found < (lines.varies_more == "seeds")).any()


def test_equal_effects_are_not_told_apart():
    (line,) = summary(rows_of({("er", "plain", "tasks"): drawn(1, 0.8, 0.6)})).to_dict("records")
    assert line["varies_more"] == "not told apart" and line["excess_low"] < 0 < line["excess_high"]


def test_what_no_table_shows_is_no_effect():
    """Unequal tests per class change a mean over tasks by some thousandths, without another prediction."""
    regrouped = np.array([97.9973, 97.9973, 97.9947, 97.9973, 97.9947])[:, None] + np.zeros((5, 5))
    rows = rows_of({("slda", "plain", "tasks"): regrouped, ("er", "plain", "tasks"): 20 * regrouped})
    lines = summary(rows).set_index("label")
    assert lines.varies_more.to_dict() == {"ER": "orders", "SLDA": "neither"}
    assert lines.order_found.to_dict() == {"ER": True, "SLDA": False} and not lines.seed_found.any()
    assert lines.share["ER"] == pytest.approx(1) and np.isnan(lines.share["SLDA"])
    assert sentences(rows)[0].endswith("; ACC deviates by less than 0.005 points for SLDA.")
    (table,) = tables(rows)
    assert [row[-1].text for row in table.rows] == ["orders", "neither"] and table.rows[1][-2].text == ""


def test_runs_that_are_missing_or_there_twice_are_refused():
    rows = rows_of({("er", "plain", "tasks"): drawn(1, 1, 1)})
    for wrong in (rows.iloc[1:], pd.concat([rows, rows.iloc[:1]])):
        with pytest.raises(ValueError, match="complete table|duplicate"):
            summary(wrong)


def test_the_order_of_rows_does_not_matter():
    rows = rows_of({("er", "plain", "tasks"): drawn(8, 0.5, 0.5), ("er", "sharc", "tasks"): drawn(1, 1, 1)})
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(summary(shuffled), summary(rows))


def test_what_streams_and_sharc_change_is_paired_by_order_and_seed():
    """An iid stream adds 4 points to every run, SHARC 2. Both are exact, whatever orders differ by."""
    table = drawn(8, 1, 1)
    noise = np.where(np.arange(5)[:, None] % 2, 3.0, -3.0) + np.zeros((5, 5))
    rows = rows_of(
        {
            ("er", "plain", "tasks"): table,
            ("er", "sharc", "tasks"): table + 2,
            ("er", "plain", "iid"): table + 4,
            ("er", "plain", "blurry 0.1"): table + noise,
        }
    )
    lines = summary(rows).set_index(["label", "stream"])
    iid, blurry = lines.loc[("ER", "iid")], lines.loc[("ER", "blurry 0.1")]
    assert [iid.over_tasks, iid.over_tasks_low, iid.over_tasks_high] == pytest.approx([4, 4, 4])
    assert blurry.over_tasks_low < 0 < blurry.over_tasks_high
    gain = lines.loc[("SHARC - plain, ER", "tasks")]
    assert [gain.acc, gain.acc_low, gain.order] == pytest.approx([2, 2, 0])
    texts = sentences(rows)
    assert any("stream iid against sharp tasks: raised: ER +4.00 [+4.00, +4.00]." in text for text in texts)
    assert any("stream blurry 0.1 against sharp tasks: not told apart: ER " in text for text in texts)
    assert texts[-1].endswith("SHARC against plain over further orders and seeds: ER +2.00 [+2.00, +2.00].")
    assert [name for _, name in lines.index][:3] == ["tasks", "blurry 0.1", "iid"]


# --- real cells --------------------------------------------------------------------------------------


def job_of(kind: str) -> OrderJob:
    changes = {"tasks": {}, "blurry": {"order": "blurry", "blurry": 0.2}, "iid": {"order": "iid"}}[kind]
    cells = []
    for order in (3, 4):
        stream = StreamConfig.model_validate({"tasks": 3, "class_order_seed": order} | changes)
        cells += [
            make_cell(method, variant).model_copy(update={"stream": stream})
            for method, variant in (("er", "plain"), ("er", "sharc"), ("sgd", "plain"))
        ]
    return OrderJob(cells=[cell.model_dump(mode="json") for cell in cells])


def test_rows_are_those_of_the_learner(tmp_path):
    features, paths = as_features(), []
    for kind in ("tasks", "blurry", "iid"):
        job = job_of(kind)
        rows = run_orders(features, job, lambda line: None)
        assert list(rows.columns) == list(COLUMNS) and len(rows) == 2 * 3 * 2 * 3
        for cell in job.opened:
            document = run_cell(features, cell)
            own = rows[(rows.class_order == cell.stream.class_order_seed) & (rows.variant == cell.variant)]
            for scenario, matrix in document["matrix"].items():
                here = own[(own.method == cell.method) & (own.scenario == scenario)]
                np.testing.assert_array_equal(here.acc, acc(np.array(matrix)))
                np.testing.assert_array_equal(here.bwt, bwt(np.array(matrix)))
        paths.append(tmp_path / f"{kind}.csv")
        write_rows(rows, paths[-1], made_by(), "key")
    rows = read_rows(Orders(), paths, ["key"] * 3)
    assert list(dict.fromkeys(rows.stream)) == ["tasks", "blurry 0.2", "iid"]
    assert rows[rows.class_order == 3].acc.sum() != rows[rows.class_order == 4].acc.sum()
    for name in ("a", "b"):
        for path in write_order_tables(rows, tmp_path / name, "c"):
            assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
        drawn_files = write_order_figure(rows, tmp_path / name, "c")
        assert [path.name for path in drawn_files] == Orders().figure_names({})
    assert len(tables(rows)) == 2
    text = (tmp_path / "a/orders.md").read_text()
    assert "## Task-IL, toy, toy" in text and "SHARC - plain, ER" in text and "blurry 0.2" in text


def test_an_order_effect_of_features_is_found():
    """Two classes have the same images, so a task with both has 50 %, and ACC over three tasks 83.3 %.

    Only the order decides whether they share a task. In Class-IL they are confused on every order.
    """
    features = as_features(separation=6.0)
    for maps, labels in (
        (features.train_maps, features.train_labels),
        (features.test_maps, features.test_labels),
        (features.train_pooled, features.train_labels),
        (features.test_pooled, features.test_labels),
    ):
        maps[labels == 1] = maps[labels == 0]
    streams = [StreamConfig(tasks=3, class_order_seed=seed) for seed in range(40)]
    kinds: dict[bool, list[StreamConfig]] = {True: [], False: []}
    for stream in streams:
        kinds[any({0, 1} <= set(task) for task in split_classes(6, stream))].append(stream)
    training = Training(lr=0.03, epochs=3, replay_batch_size=3)
    cells = [
        make_cell("er").model_copy(update={"stream": stream, "training": training})
        for stream in (*kinds[True][:2], *kinds[False][:2])
    ]
    job = OrderJob(cells=[cell.model_dump(mode="json") for cell in cells])
    rows = run_orders(features, job, lambda line: None)
    task_il, class_il = (rows[rows.scenario == scenario] for scenario in ("task_il", "class_il"))
    is_hard = task_il.class_order.isin([stream.class_order_seed for stream in kinds[True]])
    assert task_il.acc.to_numpy() == pytest.approx(np.where(is_hard, 250 / 3, 100))
    assert (class_il.acc < 84).all()
    line = summary(rows).set_index("scenario").loc["task_il"]
    assert line.varies_more == "orders" and line.order_found and not line.seed_found
    # two orders of 83.3 and two of 100
    assert [line.order, line.excess, line.seed, line.residual] == pytest.approx([2500 / 27] * 2 + [0, 0])


# --- the figure --------------------------------------------------------------------------------------


def test_the_figure_draws_errors_per_order_and_deviations_with_their_intervals():
    table = drawn(3, 1, 0.5, (4, 6))
    tables = {("er", "plain", "tasks"): table, ("er", "plain", "iid"): np.full((4, 6), 100.0)}
    tables |= {("er", "sharc", "tasks"): drawn(0.5, 2, 1, (4, 6), draw=1)}
    rows = rows_of(tables)
    errors, deviations = order_figure(rows).axes
    plain = [line for line in errors.lines if line.get_linestyle() == "--"]
    assert len(plain) == 4 and len(errors.lines) == 8, "a line per cell and order"
    for line, accuracies in zip(plain, table, strict=True):
        assert list(line.get_ydata()) == pytest.approx([100 - accuracies.mean(), 0])
        assert list(line.get_xdata()) == [0, 1]
    low, high = errors.get_ylim()
    assert low == 0 and high > 100 - table.mean(1).min()
    lines = summary(rows)
    lines = lines[(lines.stream == "tasks") & (lines.variant != "gain")].to_dict("records")
    assert [text.get_text() for text in deviations.get_yticklabels()] == ["ER", "ER + SHARC"]
    drawn_bars = iter(deviations.containers)
    for line in lines:
        for part in ("order", "seed", "residual"):
            bar = next(drawn_bars)
            point, _, (interval,) = bar.lines
            value, *ends = (np.sqrt(max(0, line[f"{part}{end}"])) for end in ("", "_low", "_high"))
            assert bar.get_label() == part and point.get_xdata() == pytest.approx([value])
            assert interval.get_segments()[0][:, 0] == pytest.approx(ends)
            assert deviations.get_xlim()[0] == 0 and ends[1] < deviations.get_xlim()[1], "nothing is cut"
    assert next(drawn_bars, None) is None


# --- settings and jobs -------------------------------------------------------------------------------


def jobs_of(datasets=None, **block) -> list:
    grid = load_grid(BASE | {"datasets": datasets or BASE["datasets"], "orders": block})
    return study_of(grid, "orders").chosen_jobs(grid)


def test_jobs_hold_every_order_of_a_stream():
    jobs = jobs_of(class_orders=[3, 7], methods=["er", "sgd"], theta=0.25, buffer=20)
    assert [job.name for job in jobs] == ["tasks", "blurry-0.1", "blurry-0.3", "iid"]
    for job, kind in zip(jobs, ("tasks", "blurry", "blurry", "iid"), strict=True):
        cells = OrderJob.model_validate(dict(job.settings)).opened
        assert [(c.method, c.variant, c.theta, c.buffer) for c in cells[:3]] == [
            ("er", "plain", None, 20),
            ("er", "sharc", 0.25, 20),
            ("sgd", "plain", None, None),
        ]
        assert [cell.stream.class_order_seed for cell in cells] == [3] * 3 + [7] * 3
        assert {cell.stream.order for cell in cells} == {kind}
    only = jobs_of(class_orders=[3, 7], blurry=[], iid=False)
    assert [job.name for job in only] == ["tasks"]


def test_listed_tasks_keep_their_sizes_and_single_tasks_are_left_out():
    digits = {"source": "digits"}
    listed = [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9]]
    datasets = {"listed": digits | {"tasks": listed}, "single": digits | {"tasks": 1}}
    jobs = jobs_of(datasets, blurry=[], iid=False, methods=["sgd"])
    assert [job.dataset for job in jobs] == ["listed"]
    cells = OrderJob.model_validate(dict(jobs[0].settings)).opened
    assert {tuple(cell.stream.sizes) for cell in cells} == {(4, 2, 2, 2)}
    assert {cell.stream.class_order_seed for cell in cells} == {0, 1, 2, 3, 4}


@pytest.mark.reliability("study-settings")
def test_a_grid_with_two_cells_of_a_method_and_variant_is_refused():
    """They would be one line of the table, which is only made when all jobs are done."""
    grid = BASE | {"sharc": {"saliency": ["gradient", "activation"]}}
    configured = load_grid(grid | {"orders": {}})
    with pytest.raises(UserError, match="^config: orders: sharc.saliency has several values"):
        study_of(configured, "orders").chosen_jobs(configured)
    bare = load_grid(grid)
    assert study_of(bare, "orders").jobs(bare) == [], "a study that no block asks for is left out"


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"class_orders": [1]}, "class_orders"),
        ({"class_orders": [1, 1]}, "1 is listed twice"),
        ({"blurry": [1.0]}, "blurry"),
        ({"seeds": [0]}, "seeds"),
        ({"variants": ["sharcc"]}, "variants"),
    ],
)
def test_bad_settings_are_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: orders.*{message}"):
        load_grid(BASE | {"orders": block})


@pytest.mark.reliability("study-settings")
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"methods": ["err"]}, "unknown method 'err'"),
        ({"buffer": 3}, "3 is smaller than the 5 tasks"),
    ],
)
def test_what_does_not_fit_the_grid_is_refused(block, message):
    with pytest.raises(UserError, match=rf"^config: orders.*{message}") as caught:
        jobs_of(**block)
    assert "\n" not in str(caught.value)


def test_a_single_seed_in_the_grid_is_refused():
    grid = load_grid(BASE | {"seeds": [0], "orders": {}})
    with pytest.raises(UserError, match="^config: orders.seeds: .*two or more seeds"):
        study_of(grid, "orders").chosen_jobs(grid)
    assert study_of(load_grid(BASE | {"seeds": [0]}), "orders").jobs(load_grid(BASE | {"seeds": [0]})) == []


def test_every_key_is_documented_with_its_default():
    text = (ROOT / "docs/config.md").read_text().split("\n## `orders`")[1].split("\n## ")[0]
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {key.strip("| `"): yaml.safe_load(default.strip("`")) for key, default, _ in lines}
    assert documented.keys() == OrderSettings.model_fields.keys()
    assert OrderSettings.model_validate(documented) == OrderSettings()
