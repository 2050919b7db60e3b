"""Statistics over seeds compared with scipy and hand-computed values."""

import warnings

import numpy as np
import pytest
from scipy import stats

from sharc_core.results.statistics import confidence_interval, holm, paired_test, relative_gain, welch


def test_confidence_interval():
    # mean 3, s = sqrt(2.5), t_{4, 0.975} = 2.7764451052
    low, high = confidence_interval([1, 2, 3, 4, 5])
    half = 2.7764451052 * np.sqrt(2.5 / 5)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert np.isnan(confidence_interval([4.0])).all()
    assert confidence_interval([4.0, 4.0]) == (4.0, 4.0)


def test_paired_test_equals_scipys():
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
    """Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, and at least 0.06 for the last."""
    nan = float("nan")
    corrected = holm([0.01, nan, 0.04, 0.03, 0.005])
    assert np.isnan(corrected.pop(1))
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_relative_gain_is_the_ratio_of_means_and_its_interval_inverts_the_t_test():
    a, b = np.array([10.0, 12.0, 11.0, 13.0]), np.array([13.0, 14.0, 15.0, 15.0])
    gain, low, high = relative_gain(a, b)
    assert gain == pytest.approx(100 * (57 / 46 - 1))
    assert low < gain < high
    for edge in (low, high):  # at the edge b - r a differs from 0 with p = 0.05
        assert stats.ttest_1samp(b - (1 + edge / 100) * a, 0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert np.isnan(relative_gain([10.0], [12.0])[1])
    assert np.isnan(relative_gain([-1.0, 1.1], [5.0, 6.0])[1])  # the mean of a does not differ from 0


def test_welch_equals_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5), rng.normal(1, 3, 5)
    result = welch(a.mean(), a.std(ddof=1), b.mean(), b.std(ddof=1), 5)
    interval = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert result == pytest.approx((b.mean() - a.mean(), interval.low, interval.high))
    assert welch(1.0, 0.0, 3.0, 0.0, 5) == (2.0, 2.0, 2.0)


def test_effect_size():
    """Differences 1, 2, 3: mean 2, deviation 1, Hedges' factor 1 - 3 / 7."""
    assert paired_test([0, 0, 0], [1, 2, 3]).effect == pytest.approx(2 * 4 / 7)
    assert np.isnan(paired_test([0, 0], [1, 1]).effect)
