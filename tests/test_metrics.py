"""Metrics on matrices with known values."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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

NAN = np.nan
A = np.array([[90.0, 20.0, 10.0], [60.0, 80.0, 30.0], [70.0, 50.0, 96.0]])
UNTRAINED = np.array([50.0, 12.0, 18.0])
JOINT = np.array([[NAN] * 3, [NAN] * 3, [70.0, 50.0, 96.0]])

percent = st.floats(0, 100)
matrices = st.integers(2, 5).flatmap(lambda t: arrays(float, (2, t, t), elements=percent))


def test_metrics_match_hand_computed_values():
    assert acc(A) == pytest.approx((70 + 50 + 96) / 3)
    assert bwt(A) == pytest.approx(((70 - 90) + (50 - 80)) / 2)
    # the row before the task is learned minus the untrained head, for tasks 2 and 3
    assert fwt(A, UNTRAINED) == pytest.approx(((20 - 12) + (30 - 18)) / 2)
    # the best of all rows except the last
    assert forgetting(A) == pytest.approx(((90 - 70) + (80 - 50)) / 2)
    np.testing.assert_allclose(learning_curve(A), [90, (60 + 80) / 2, (70 + 50 + 96) / 3])
    assert aia(A) == pytest.approx((90 + 70 + 72) / 3)


def test_forgetting_can_be_negative_and_uses_rows_before_the_task_was_learned():
    assert forgetting(np.array([[40.0, 0.0], [55.0, 90.0]])) == pytest.approx(-15)
    a = np.array([[90.0, 85.0, 0.0], [90.0, 80.0, 0.0], [90.0, 70.0, 99.0]])
    assert forgetting(a) == pytest.approx(((90 - 90) + (85 - 70)) / 2)


def test_forgetting_ignores_entries_that_were_not_evaluated():
    a = A.copy()
    a[np.triu_indices(3, 1)] = NAN
    assert forgetting(a) == pytest.approx(25)
    assert bwt(a) == pytest.approx(-25)
    assert np.isnan(fwt(a, UNTRAINED))


def test_joint_has_only_acc():
    assert acc(JOINT) == pytest.approx(72)
    assert np.isnan([aia(JOINT), bwt(JOINT), fwt(JOINT, UNTRAINED), forgetting(JOINT)]).all()
    np.testing.assert_array_equal(learning_curve(JOINT), [NAN, NAN, 72])


def test_metrics_in_code_by_hand():
    """The code takes the best of all rows, including the last row and tests before a task is learned."""
    assert bwt_in_code(A, UNTRAINED) == bwt(A)
    assert forgetting_in_code(A) == pytest.approx(((90 - 70) + (80 - 50)) / 2)
    improved = np.array([[40.0, 70.0, 99.0], [55.0, 60.0, 0.0], [80.0, 65.0, 90.0]])
    assert forgetting_in_code(improved) == pytest.approx(((80 - 80) + (70 - 65)) / 2), "70 was tested before"
    improved[0, 1] = 10.0
    assert forgetting_in_code(improved) == pytest.approx(0.0)
    assert forgetting(improved) == pytest.approx((-25 + -5) / 2)


def test_joints_bwt_in_the_code_is_the_gain_over_the_untrained_head():
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
def test_leading_axes_are_independent_and_inputs_unchanged(a):
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
    # forgetting takes the best of rows that include the diagonal
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
def test_average_incremental_accuracy_uses_only_the_tasks_seen(place):
    a = A.copy()
    a[place] = NAN
    assert np.isnan(aia(a)) == (place[1] <= place[0])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 0), (4, 2, 3)])
def test_other_shapes_than_an_accuracy_matrix_are_refused(shape):
    with pytest.raises(ValueError, match="accuracy matrix"):
        acc(np.zeros(shape))
