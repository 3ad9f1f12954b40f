"""Means, spreads and intervals of a few runs, against SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from thawline import statistics

NAN = math.nan


def test_summary_is_mean_and_sample_sd_with_the_t_interval():
    told = statistics.summary([1.0, 2.0, 6.0])
    assert (told.count, told.n, told.mean, told.diverged) == (3, 3, 3.0, 0)
    assert told.sd == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    half = 4.302652729911275 * math.sqrt(7) / math.sqrt(3)  # t(2) at 97.5 %, from any table
    assert told.interval == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_t_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(size=n)
    expected = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
    assert statistics.t_interval(values) == pytest.approx(expected)


def test_one_value_has_no_spread_and_no_value_has_no_mean():
    one = statistics.summary([0.8])
    assert (one.n, one.mean, one.sd, one.interval) == (1, 0.8, None, None)
    none = statistics.summary([])
    assert (none.count, none.n, none.mean, none.sd, none.interval) == (0, 0, None, None, None)


def test_a_diverged_run_is_counted_and_not_averaged():
    told = statistics.summary([0.8, NAN, 0.9])
    assert (told.count, told.n, told.diverged) == (3, 2, 1)
    assert told.mean == pytest.approx(0.85)


@pytest.mark.parametrize("function", [statistics.t_interval, statistics.interquartile_mean, statistics.sign_flip])
def test_no_statistic_drops_a_diverged_run_silently(function):
    with pytest.raises(ValueError, match="not finite"):
        function([0.8, NAN, 0.9])


@pytest.mark.parametrize("n", [1, 3, 4, 7, 10, 25])
def test_interquartile_mean_is_scipys_trimmed_mean(n):
    values = np.random.default_rng(n).normal(size=n)
    assert statistics.interquartile_mean(values) == pytest.approx(scipy.stats.trim_mean(values, 0.25))


def test_interquartile_mean_ignores_the_outer_quarters():
    assert statistics.interquartile_mean([-1000, 1, 2, 1000]) == 1.5


def test_probability_of_improvement_counts_all_pairs_and_half_the_ties():
    # 3 > 1, 3 > 2 and 2 > 1 win, 2 = 2 and 1 = 1 tie, 1 < 2 loses.
    assert statistics.probability_of_improvement([3, 2, 1], [1, 2]) == pytest.approx((3 + 0.5 * 2) / 6)
    x, y = [0.8, 0.9, 0.7], [0.85, 0.7]
    both = statistics.probability_of_improvement(x, y) + statistics.probability_of_improvement(y, x)
    assert both == pytest.approx(1)
