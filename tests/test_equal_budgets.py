"""Equal bytes, areas, ranks and the verdict's sentences on planted numbers."""

import math

import numpy as np
import pytest
from result_factory import constant_matrix, make_document

from sharc_core.figures.sharc_gain import gain_pairs, gain_row_name
from sharc_core.report.budget_tables import areas_table, limits_table, rank_tables
from sharc_core.report.verdicts import verdicts
from sharc_core.results.comparisons import setups
from sharc_core.results.equal_budgets import areas, limits, standings
from sharc_core.results.main_figures import COMPUTE, GAIN, RANKS, further_figures
from sharc_core.results.ranks import critical_difference, rankings
from sharc_core.results.runs import runs_table
from sharc_core.results.statistics import bootstrap_interval
from sharc_core.results.summary import row_name, summarise


def cell(method, accs, total, variant="plain", buffer=None, dataset="s_digits", associative=0, **settings):
    """Return a cell of Class-IL with the ACC of each seed and a total of bytes."""
    matrices = {"class_il": constant_matrix(accs), "task_il": constant_matrix([99.0] * len(accs), 99.0)}
    names = {"matrices": matrices, "seeds": range(len(accs)), "dataset": dataset, "scenarios": ["class_il"]}
    document = make_document(method, variant, buffer=buffer, **names, **settings)
    if buffer is None:
        document["cell"].update(buffer=None, budget_unit=None)
    costs = {
        "episodic_bytes": total - associative - 100,
        "associative_bytes": associative,
        "learner_bytes": 100,
    }
    document["costs"].update({name: [value] * len(accs) for name, value in costs.items()})
    return document


def entries_of(cells):
    return summarise(runs_table(cells))


GRID = [
    cell("sgd", [20.0, 21.0, 19.0], 1_000),
    cell("ncm", [40.0, 41.0, 39.0], 50_000),
    cell("er", [30.0, 31.0, 29.5], 100_000, buffer=10),
    cell("er", [50.0, 51.0, 49.0], 1_000_000, buffer=100),
    cell("er", [42.0, 43.5, 41.0], 1_000_000, "sharc", buffer=10, associative=880_000),
    cell("joint", [80.0, 81.0, 79.0], 1_000),
]


def test_only_runs_within_a_limit_compete():
    entries = entries_of(GRID)
    names = [standing.series.name for standing in standings(entries, 500_000)]
    assert names == ["NCM", "ER", "SGD"]
    (ncm, er, _) = standings(entries, 500_000)
    assert (ncm.acc, er.acc, er.entries[0].buffer) == (40.0, pytest.approx(30.1667, abs=1e-3), 10)
    assert [s.series.name for s in standings(entries, 1_000_000)] == ["ER", "ER+", "NCM", "SGD"]
    assert "JOINT" not in [s.series.name for s in standings(entries)]


def test_limits_are_round_and_each_changes_something():
    assert limits(entries_of(GRID)) == [50_000, 100_000, 1_000_000]
    assert limits(entries_of(GRID[:1])) == []


def test_the_area_is_the_trapezoid_over_log_bytes():
    cells = [
        cell("er", [30.0, 40.0], 10_000, buffer=10),
        cell("er", [50.0, 60.0], 1_000_000, buffer=100),
        cell("gem", [20.0, 20.0], 10_000, buffer=10),
        cell("gem", [60.0, 60.0], 100_000, buffer=100),
        cell("ncm", [44.0, 46.0], 5_000),
        cell("slda", [70.0, 70.0], 500_000),
    ]
    found = {area.name: area for area in areas(entries_of(cells))}
    # over log10(bytes) 4 to 6: ER rises from 35 to 55; GEM from 20 to 60 until 5, and then stays
    assert found["ER"].value == pytest.approx(45.0)
    assert found["GEM"].value == pytest.approx((40 + 60) / 2)
    assert found["NCM"].value == pytest.approx(45.0) and found["NCM"].is_constant
    assert "SLDA" not in found  # its single total lies inside the range
    assert (found["ER"].low, found["ER"].high) == (40.0, 50.0)  # bootstrap of two seeds
    assert found["GEM"].low == found["GEM"].high
    table = areas_table(entries_of(cells))
    assert [row[0].text for row in table.rows] == ["GEM", "ER", "NCM (one total)"]
    assert "10.0 kB to 1.00 MB" in table.caption


def test_no_area_with_one_budget_and_no_interval_with_one_seed():
    assert areas_table(entries_of(GRID[:3])) is None
    one = [cell("er", [30.0], 10_000, buffer=10), cell("er", [50.0], 1_000_000, buffer=100)]
    (area,) = areas(entries_of(one))
    assert area.value == pytest.approx(40.0) and math.isnan(area.low)


def test_the_table_of_limits_marks_the_best():
    table = limits_table(entries_of(GRID))
    assert table.header == ["Model", "at most 50 kB", "at most 100 kB", "at most 1 MB"]
    rows = {row[0].text: row[1:] for row in table.rows}
    assert [item.text for item in rows["ER"]] == ["–", "30.17", "50.00"]
    assert [item.bold for item in rows["ER"]] == [False, False, True]
    assert [item.bold for item in rows["NCM"]] == [True, True, False]


def test_the_verdict_on_planted_numbers():
    best, gain, closed = verdicts(entries_of(GRID))
    assert best.lead == "Best at equal bytes"
    assert best.text == (
        "NCM with 40.00 % (+20.00 [+20.00, +20.00] against SGD) within 50 kB; "
        "NCM with 40.00 % (+9.83 [+9.12, +10.55] against ER) within 100 kB; "
        "ER with 50.00 % (+7.83 [+7.12, +8.55] against ER+) within 1 MB."
    )
    # the same buffer: 12, 12.5, 11.5; the plain run of as many bytes: -8, -7.5, -8
    assert gain.text == (
        "+12.00 [+10.76, +13.24] at the same buffer, where its associative memory is not counted; "
        "-7.83 [-8.55, -7.12] against plain runs of the same method with no more bytes, its associative "
        "memory counted."
    )
    assert closed.text == (
        "the best replay method, ER (50.00 %, 1.00 MB), is above the best closed form, NCM (40.00 %, "
        "50.0 kB): +10.00 [+10.00, +10.00]."
    )


def test_what_an_interval_with_zero_says():
    cells = [
        cell("er", [30.0, 32.0, 34.0], 10_000, buffer=10),
        cell("er", [31.0, 31.5, 34.5], 10_000, "sharc", buffer=10),
        cell("slda", [33.0, 31.0, 33.0], 9_000),
    ]
    best, gain, closed = verdicts(entries_of(cells))
    assert best.text.startswith("ER+ with 32.33 % (not told apart from SLDA, +0.00 [")
    assert gain.text.startswith("not told apart from zero, +0.33 [")
    assert "is not told apart from the best closed form, SLDA" in closed.text


@pytest.mark.parametrize(
    ("kept", "leads"),
    [
        pytest.param([0, 2], ["Best at equal bytes"], id="neither SHARC nor closed forms"),
        pytest.param([2], [], id="one method at one budget"),
        pytest.param([0, 1], ["Best at equal bytes"], id="no replay"),
        pytest.param([2, 4], ["Best at equal bytes", "SHARC's gain"], id="no closed form"),
    ],
)
def test_sentences_that_a_grid_cannot_support_are_left_out(kept, leads):
    assert [verdict.lead for verdict in verdicts(entries_of([GRID[i] for i in kept]))] == leads


def test_without_a_plain_run_of_as_many_bytes_there_is_no_counted_gain():
    (_, gain) = verdicts(entries_of([GRID[2], GRID[4]]))
    assert gain.text.endswith(
        "no plain run of the same method has as many bytes as SHARC with its associative memory."
    )


CHARGED = {"count_associative_memory": True}


def test_a_budget_of_total_bytes_counts_the_associative_memory():
    """The plain run fills its budget a little further than SHARC does; both are within it."""
    cells = [
        cell("er", [30.0, 32.0], 99_000, buffer=100_000, budget_unit="total_bytes"),
        cell("er", [35.0, 37.0], 97_000, "sharc", buffer=100_000, budget_unit="total_bytes", **CHARGED),
    ]
    (_, gain) = verdicts(entries_of(cells))
    assert gain.text == (
        "+5.00 [+5.00, +5.00] against plain runs of the same method with no more bytes, its associative "
        "memory counted."
    )


def test_a_total_that_leaves_out_the_associative_memory_is_not_counted():
    """SHARC then keeps more than the budget, so the plain run at the same buffer is no fair comparison."""
    cells = [
        cell("er", [30.0, 32.0], 99_000, buffer=100_000, budget_unit="total_bytes"),
        cell("er", [35.0, 37.0], 197_000, "sharc", buffer=100_000, budget_unit="total_bytes"),
        cell("er", [38.0, 40.0], 195_000, buffer=200_000, budget_unit="total_bytes"),
    ]
    texts = [gain.text for gain in verdicts(entries_of(cells)) if gain.lead == "SHARC's gain"]
    assert texts == [
        "+5.00 [+5.00, +5.00] at the same buffer, where its associative memory is not counted; "
        "-3.00 [-3.00, -3.00] against plain runs of the same method with no more bytes, its associative "
        "memory counted."
    ]


def test_one_seed_has_no_interval():
    cells = [cell("sgd", [20.0], 1_000), cell("er", [30.0], 10_000, buffer=10)]
    assert [verdict.text for verdict in verdicts(entries_of(cells))] == [
        "ER with 30.00 % (+10.00 (one seed) against SGD) within 10 kB."
    ]


def test_several_data_sets_are_averaged():
    cells = [
        cell(method, [acc + shift, acc + shift + 1], 1_000 + index, dataset=dataset, buffer=10)
        for dataset, shift in (("s_digits", 0.0), ("s_glyphs", 10.0))
        for index, (method, acc) in enumerate((("er", 30.0), ("gem", 20.0)))
    ]
    (best,) = verdicts(entries_of(cells))
    assert best.lead == "Best at equal bytes (mean over 2 data sets)"
    assert best.text == "ER with 35.50 % (+10.00 [+10.00, +10.00] against GEM) within 2 kB."


def test_the_bootstrap_is_reproducible_and_between_the_extremes():
    values = [1.0, 2.0, 4.0, 8.0]
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert 1 <= low < np.mean(values) < high <= 8
    assert all(math.isnan(end) for end in bootstrap_interval([1.0]))


# --- ranks ---------------------------------------------------------------------------------------------


def ranked_grid(count):
    accs = {"er": 50.0, "gem": 40.0, "sgd": 20.0}
    return [
        cell(method, [acc + i, acc + i + 1], 1_000, dataset=f"d{i}", buffer=None if method == "sgd" else 10)
        for i in range(count)
        for method, acc in accs.items()
    ]


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_demsars_table(methods, q):
    assert critical_difference(methods, 14) == pytest.approx(
        q * math.sqrt(methods * (methods + 1) / (6 * 14)), abs=1e-3
    )


def test_ranks_over_data_sets():
    (ranking,) = rankings(entries_of(ranked_grid(6)))
    assert [(row.name, row.rank, row.rank_interval) for row in ranking.rows] == [
        ("ER", 1.0, (1.0, 1.0)),
        ("GEM", 2.0, (2.0, 2.0)),
        ("SGD", 3.0, (3.0, 3.0)),
    ]
    assert ranking.p == pytest.approx(math.exp(-6), rel=1e-6)  # chi2 = 12, two degrees of freedom
    assert ranking.critical_difference == pytest.approx(2.343 * math.sqrt(12 / 36), abs=1e-3)
    assert ranking.groups == [(0, 1), (1, 2)]
    assert ranking.rows[0].acc == pytest.approx(53.0)
    (table,) = rank_tables(entries_of(ranked_grid(6)))
    assert "p 0.002" in table.caption and "d0, d1, d2, d3, d4, d5" in table.caption


def test_fewer_than_three_data_sets_have_no_ranks():
    assert rankings(entries_of(ranked_grid(2))) == []
    assert RANKS not in further_figures(entries_of(ranked_grid(2)))
    assert RANKS in further_figures(entries_of(ranked_grid(3)))


def test_which_figures_a_grid_has():
    assert [name for name in further_figures(entries_of(GRID)) if name != COMPUTE] == [GAIN]
    assert GAIN not in further_figures(entries_of(GRID[:4]))


def test_labels_hold_only_what_differs():
    """One unit in the whole grid is not named; storages are; plain-only storages add nothing to SHARC's."""
    cells = [
        cell("er", [30.0, 31.0], 90_000, buffer=100_000, budget_unit="total_bytes"),
        cell("er", [33.0, 34.0], 90_000, "sharc", buffer=100_000, budget_unit="total_bytes"),
        cell("er", [40.0, 41.0], 90_000, buffer=100_000, budget_unit="total_bytes", storage="int8"),
    ]
    entries = entries_of(cells)
    assert [s.series.name for s in standings(entries)] == ["ER [int8]", "ER+ [float16]", "ER [float16]"]
    assert [row_name(e, entries) for e in entries if e.is_sharc] == ["ER+, buffer 100 kB (float16)"]
    assert [setup.label for setup in setups(entries) if setup.pairs] == [""]
    assert [row_name(e, entries[:2]) for e in entries[:2]] == ["ER, buffer 100 kB", "ER+, buffer 100 kB"]
    (pair,) = gain_pairs(entries)  # both are stored as float16
    assert gain_row_name(pair, entries) == "ER+, buffer 100 kB"
