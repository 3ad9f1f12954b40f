"""The rows that no rival beats, by SciPy's paired t."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from thawline import statistics

SCORES = np.random.default_rng(3).normal([[0.80], [0.83], [0.91], [0.91]], 0.02, size=(4, 6))


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_row_is_out_if_a_rivals_paired_t_test_says_so_at_its_share_of_alpha(mode):
    side = "greater" if mode == "max" else "less"
    smallest = [
        min(scipy.stats.ttest_rel(SCORES[j], SCORES[k], alternative=side).pvalue for j in range(4) if j != k)
        for k in range(4)
    ]
    expected = tuple(p >= 0.05 / 3 for p in smallest)
    assert statistics.in_the_running(SCORES, mode) == expected
    assert expected == ((False, False, True, True) if mode == "max" else (True, True, False, False))


def test_beaten_is_the_same_for_one_pair_of_several_rows():
    for first in range(4):
        for second in range(4):
            d = SCORES[first] - SCORES[second]
            if first != second:
                t = scipy.stats.ttest_rel(SCORES[first], SCORES[second]).statistic
                limit = scipy.stats.t.ppf(1 - 0.05 / 3, 5)
                assert statistics.beaten(d, rows=4) == (1 if t > limit else -1 if t < -limit else 0)


def test_more_rivals_make_it_harder_to_beat_one():
    d = np.array([0.01, 0.02, 0.03])  # t = 3.46: above 2.92 for two rows, below 4.30 for three
    assert statistics.beaten(d, rows=2) == 1
    assert statistics.beaten(d, rows=3) == 0
    assert statistics.in_the_running([[0.5, 0.5, 0.5], 0.5 + d]) == (False, True)
    assert statistics.in_the_running([[0.5, 0.5, 0.5], 0.5 + d, 0.5 + d]) == (True, True, True)


def test_equal_rows_one_seed_and_one_row_leave_everything_in():
    assert statistics.in_the_running([[0.1 + 0.2, 0.5, 0.7], [0.3, 0.5, 0.7]]) == (True, True)
    assert statistics.in_the_running([[0.5], [0.9]]) == (True, True)
    assert statistics.in_the_running([[0.5, 0.6]]) == (True,)
    assert statistics.beaten([0.3], rows=2) == 0


def test_the_same_difference_for_every_seed_is_no_certainty_where_the_metric_moves_in_steps():
    rows = [[0.50, 0.60], [0.52, 0.62]]
    assert statistics.in_the_running(rows) == (False, True)
    # One image of 50: t = 0.02 / (0.02 / sqrt(12) / sqrt(2)) = 4.9, below t(1) = 6.3 at 5 %.
    assert statistics.in_the_running(rows, resolution=0.02) == (True, True)
    assert statistics.in_the_running(rows, resolution=0.01) == (False, True)
