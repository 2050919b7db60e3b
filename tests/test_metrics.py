"""Metrics on matrices worked out by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sharc_core.learning.metrics import (
    acc,
    aia,
    bwt,
    bwt_in_code,
    forgetting,
    forgetting_in_code,
    fwt,
    learning_curve,
)
from sharc_core.results.statistics import confidence_interval, holm, paired_test, relative_gain, welch

NAN = np.nan
A = np.array([[90.0, 20.0, 10.0], [60.0, 80.0, 30.0], [70.0, 50.0, 96.0]])
UNTRAINED = np.array([50.0, 12.0, 18.0])
JOINT = np.array([[NAN] * 3, [NAN] * 3, [70.0, 50.0, 96.0]])

percent = st.floats(0, 100)
matrices = st.integers(2, 5).flatmap(lambda t: arrays(float, (2, t, t), elements=percent))


def test_hand_computed():
    assert acc(A) == pytest.approx((70 + 50 + 96) / 3)
    assert bwt(A) == pytest.approx(((70 - 90) + (50 - 80)) / 2)
    # the row before the task is learned, less the untrained head: tasks 2 and 3
    assert fwt(A, UNTRAINED) == pytest.approx(((20 - 12) + (30 - 18)) / 2)
    # the best of all rows but the last
    assert forgetting(A) == pytest.approx(((90 - 70) + (80 - 50)) / 2)
    np.testing.assert_allclose(learning_curve(A), [90, (60 + 80) / 2, (70 + 50 + 96) / 3])
    assert aia(A) == pytest.approx((90 + 70 + 72) / 3)


def test_forgetting_can_be_negative_and_uses_rows_before_the_task_was_learned():
    assert forgetting(np.array([[40.0, 0.0], [55.0, 90.0]])) == pytest.approx(-15)
    a = np.array([[90.0, 85.0, 0.0], [90.0, 80.0, 0.0], [90.0, 70.0, 99.0]])
    assert forgetting(a) == pytest.approx(((90 - 90) + (85 - 70)) / 2)


def test_forgetting_leaves_out_what_was_not_evaluated():
    a = A.copy()
    a[np.triu_indices(3, 1)] = NAN
    assert forgetting(a) == pytest.approx(25)
    assert bwt(a) == pytest.approx(-25)
    assert np.isnan(fwt(a, UNTRAINED))


def test_joint_has_an_accuracy_and_nothing_else():
    assert acc(JOINT) == pytest.approx(72)
    assert np.isnan([aia(JOINT), bwt(JOINT), fwt(JOINT, UNTRAINED), forgetting(JOINT)]).all()
    np.testing.assert_array_equal(learning_curve(JOINT), [NAN, NAN, 72])


def test_metrics_in_code_by_hand():
    """The best of all rows, the last included, and of the test before a task; zeros beyond."""
    assert bwt_in_code(A, UNTRAINED) == bwt(A)
    assert forgetting_in_code(A) == pytest.approx(((90 - 70) + (80 - 50)) / 2)
    improved = np.array([[40.0, 70.0, 99.0], [55.0, 60.0, 0.0], [80.0, 65.0, 90.0]])
    assert forgetting_in_code(improved) == pytest.approx(((80 - 80) + (70 - 65)) / 2), "70 was tested before"
    improved[0, 1] = 10.0
    assert forgetting_in_code(improved) == pytest.approx(0.0)
    assert forgetting(improved) == pytest.approx((-25 + -5) / 2)


def test_joint_gains_over_the_untrained_head_in_the_code():
    expected = np.mean(JOINT[-1, :-1] - np.array(UNTRAINED)[:-1])
    assert bwt_in_code(JOINT, UNTRAINED) == pytest.approx(expected)
    assert np.isnan(forgetting_in_code(JOINT))


def test_one_task_has_no_transfer_and_no_warning():
    a = np.array([[[88.0]], [[77.0]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(acc(a), [88, 77])
        np.testing.assert_array_equal(aia(a), [88, 77])
        for values in (bwt(a), fwt(a, [[50.0], [50.0]]), forgetting(a)):
            assert values.shape == (2,)
            assert np.isnan(values).all()
    np.testing.assert_array_equal(learning_curve(a), [[88], [77]])


@given(matrices)
def test_leading_axes_are_independent_and_inputs_untouched(a):
    before = a.copy()
    untrained = a[:, 0]
    for metric in (acc, aia, bwt, forgetting, learning_curve):
        together = metric(a)
        np.testing.assert_array_equal(together, np.stack([metric(one) for one in a]))
    np.testing.assert_array_equal(fwt(a, untrained)[1], fwt(a[1], untrained[1]))
    np.testing.assert_array_equal(a, before)


@pytest.mark.slow
@given(matrices)
def test_relations_between_metrics(a):
    np.testing.assert_array_equal(learning_curve(a)[:, -1], acc(a))
    # the diagonal is among the rows that forgetting takes the best of
    assert (forgetting(a) >= -bwt(a) - 1e-9).all()


@given(matrices)
def test_average_incremental_accuracy_is_the_mean_over_tasks_of_the_mean_over_seen_tasks(a):
    for one in a:
        after_each = []
        for i in range(len(one)):
            seen = [one[i][j] for j in range(len(one)) if j <= i]
            after_each.append(sum(seen) / len(seen))
        assert aia(one) == pytest.approx(sum(after_each) / len(after_each))


@pytest.mark.parametrize("place", [(i, j) for i in range(3) for j in range(3)])
def test_average_incremental_accuracy_needs_the_tasks_seen_and_no_other(place):
    a = A.copy()
    a[place] = NAN
    assert np.isnan(aia(a)) == (place[1] <= place[0])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 0), (4, 2, 3)])
def test_what_is_no_accuracy_matrix_is_refused(shape):
    with pytest.raises(ValueError, match="accuracy matrix"):
        acc(np.zeros(shape))


def test_confidence_interval():
    # mean 3, s = sqrt(2.5), t_{4, 0.975} = 2.7764451052
    low, high = confidence_interval([1, 2, 3, 4, 5])
    half = 2.7764451052 * np.sqrt(2.5 / 5)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert np.isnan(confidence_interval([4.0])).all()
    assert confidence_interval([4.0, 4.0]) == (4.0, 4.0)


def test_paired_test_is_scipys():
    a, b = np.array([80.0, 82, 81, 79, 85]), np.array([83.0, 84, 82, 78, 90])
    test = paired_test(a, b)
    assert test.n == 5
    assert test.difference == pytest.approx(2.0)
    assert (test.low, test.high) == pytest.approx(confidence_interval(b - a))
    assert test.p_t == pytest.approx(stats.ttest_rel(b, a).pvalue)
    assert test.p_wilcoxon == pytest.approx(stats.wilcoxon(b - a).pvalue)


def test_paired_test_where_the_tests_are_undefined():
    one = paired_test([80.0], [82.5])
    assert one.difference == 2.5
    assert np.isnan([one.low, one.high, one.p_t, one.p_wilcoxon]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = paired_test([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
        shifted = paired_test([0.1, 0.2, 0.3], [1.1, 1.2, 1.3])  # equal up to rounding error
    assert (same.difference, same.p_t, same.p_wilcoxon) == (0, 1, 1)
    assert shifted.p_t == 0
    assert shifted.p_wilcoxon == pytest.approx(0.25)
    with pytest.raises(ValueError, match="unpaired"):
        paired_test([1.0, 2.0], [1.0])


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, and the last not below that."""
    nan = float("nan")
    found = holm([0.01, nan, 0.04, 0.03, 0.005])
    assert np.isnan(found.pop(1))
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_relative_gain_is_the_ratio_of_means_and_its_interval_inverts_the_t_test():
    a, b = np.array([10.0, 12.0, 11.0, 13.0]), np.array([13.0, 14.0, 15.0, 15.0])
    gain, low, high = relative_gain(a, b)
    assert gain == pytest.approx(100 * (57 / 46 - 1))
    assert low < gain < high
    for edge in (low, high):  # b - r a is then just told from 0
        assert stats.ttest_1samp(b - (1 + edge / 100) * a, 0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert np.isnan(relative_gain([10.0], [12.0])[1])
    assert np.isnan(relative_gain([-1.0, 1.1], [5.0, 6.0])[1])  # a is not told from 0


def test_welch_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5), rng.normal(1, 3, 5)
    found = welch(a.mean(), a.std(ddof=1), b.mean(), b.std(ddof=1), 5)
    interval = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert found == pytest.approx((b.mean() - a.mean(), interval.low, interval.high))
    assert welch(1.0, 0.0, 3.0, 0.0, 5) == (2.0, 2.0, 2.0)


def test_effect_size():
    """Differences 1, 2, 3: mean 2, deviation 1, Hedges' factor 1 - 3 / 7."""
    assert paired_test([0, 0, 0], [1, 2, 3]).effect == pytest.approx(2 * 4 / 7)
    assert np.isnan(paired_test([0, 0], [1, 1]).effect)
