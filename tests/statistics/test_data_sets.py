"""Strategies over several data sets: pairs, normalised scores, interquartile means, profiles, by hand and by SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from thawline.statistics.data_sets import (
    compare_over_data_sets,
    iqm_over_data_sets,
    normalised,
    performance_profiles,
    stratified_bootstrap,
    tally,
)

STREAM = np.random.default_rng(0)


def test_a_pair_is_compared_by_differences_within_each_data_set_and_scipy_s_wilcoxon():
    first, second = STREAM.uniform(size=(2, 9))
    pair = compare_over_data_sets(first, second)
    assert pair.difference == pytest.approx(np.mean(first - second))
    assert pair.p == pytest.approx(stats.wilcoxon(first, second, method="exact").pvalue)
    assert (pair.wins, pair.ties, pair.losses) == (np.sum(first > second), 0, np.sum(first < second))


def test_ties_are_left_out_of_the_test_and_less_can_be_better():
    first, second = [0.1 + 0.2, 0.5, 0.6, 0.9], [0.3, 0.4, 0.7, 0.6]
    pair = compare_over_data_sets(first, second, "min")
    assert (pair.wins, pair.ties, pair.losses) == (1, 1, 2)
    assert pair.difference == pytest.approx(0.075)
    # Differences 0.1, -0.1 and 0.3 have the ranks 1.5, 1.5 and 3: of 8 sign patterns 6 have a sum of 3 or more.
    assert pair.p == 0.75


def test_wins_ties_and_losses_count_every_other_strategy_on_every_data_set():
    means = [[0.7, 0.6, 0.7], [0.5, 0.1 + 0.4, 0.9]]
    assert tally(means, 0) == (1, 2, 1)
    assert tally(means, 2, "min") == (0, 1, 3)


def test_metrics_without_a_common_scale_are_compared_by_their_ratios():
    pair = compare_over_data_sets([2.0, 800.0, 3.0], [1.0, 200.0, 3.0], "min", relative=True)
    assert pair.difference == pytest.approx(2.0 - 1)  # the cube root of 2 x 4 x 1
    assert (pair.wins, pair.ties, pair.losses, pair.p) == (0, 1, 2, 0.5)
    assert compare_over_data_sets([2.0, -1.0], [1.0, -2.0], relative=True).difference is None


def test_each_data_set_is_normalised_by_its_own_worst_and_best_mean():
    one, other, flat = [[0.5, 0.7], [0.2, 0.4]], [[10.0], [30.0]], [[1.0, 3.0], [2.0, 2.0]]
    first, second, nothing = normalised([one, other, flat])
    assert first == pytest.approx(np.array([[2 / 3, 4 / 3], [-1 / 3, 1 / 3]]))
    assert second == pytest.approx(np.array([[0.0], [1.0]]))
    assert nothing is None
    assert normalised([other], "min")[0] == pytest.approx(np.array([[1.0], [0.0]]))


@pytest.mark.parametrize("sizes", [(3, 3, 3), (5, 2, 4), (1, 1, 1)])
def test_the_interquartile_mean_is_scipy_s_trimmed_mean_of_all_runs(sizes):
    scores = [STREAM.uniform(size=(2, size)) for size in sizes]
    pooled = np.concatenate(scores, axis=1)
    found = iqm_over_data_sets(scores)
    assert [one.value for one in found] == pytest.approx([stats.trim_mean(row, 0.25) for row in pooled])
    assert all((one.interval is None) == (max(sizes) == 1) for one in found)


def test_the_interval_is_that_of_every_way_to_draw_seeds_within_the_data_sets():
    low, high = np.array([[0.0, 0.1]]), np.array([[0.6, 1.0]])
    every = []
    for a, b in itertools.product(itertools.product((0, 1), repeat=2), repeat=2):
        values = np.sort([*low[0, list(a)], *high[0, list(b)]])
        every.append(values[1:3].mean())
    # Each of the sixteen ways has a chance of 1/16, more than what the interval leaves out at an end.
    (found,) = iqm_over_data_sets([low, high])
    assert found.interval == pytest.approx((min(every), max(every)))
    assert found.interval == pytest.approx((0.3, 0.55))
    # Drawn from all runs together the interval would begin at 0.
    assert found.value == pytest.approx(0.35)


def test_seeds_are_drawn_for_all_strategies_together():
    one = STREAM.uniform(size=(1, 4))
    resampled = stratified_bootstrap([np.concatenate([one, one + 0.25])], lambda values: values.mean(axis=-1), 50)
    assert resampled.shape == (50, 2)
    assert resampled[:, 1] - resampled[:, 0] == pytest.approx(np.full(50, 0.25))
    assert np.ptp(resampled[:, 0]) > 0


def test_a_profile_is_the_share_of_runs_above_each_score_and_data_sets_count_alike():
    scores = [np.array([[0.0, 0.5, 1.0], [0.2, 0.2, 0.2]]), np.array([[1.0, 1.0], [0.0, 0.6]])]
    profiles = performance_profiles(scores, [-0.1, 0.4, 0.5, 1.0])
    assert profiles.shares == pytest.approx(np.array([[1, 5 / 6, 4 / 6, 0], [1, 1 / 4, 1 / 4, 0]]))
    assert (profiles.low <= profiles.shares).all() and (profiles.shares <= profiles.high).all()
    # The second strategy's runs above 0.4: none, one or both of two draws on the second data set.
    assert (profiles.low[1, 1], profiles.high[1, 1]) == (0.0, 0.5)
    single = performance_profiles([one[:, :1] for one in scores], [0.4])
    assert (single.low, single.high) == (None, None)
    assert single.shares.tolist() == [[0.5], [0.0]]


def test_a_diverged_run_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        normalised([[[math.nan, 1.0]]])
