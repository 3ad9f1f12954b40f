"""Intervals by resampling: joint, repeatable, and known where few values allow it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from thawline import statistics

SCORES = [0.81, 0.84, 0.79, 0.86, 0.80]


def test_bootstrap_of_two_pairs_is_the_three_possible_means():
    # Two pairs give the means d1, (d1 + d2) / 2, d2 with chances 1/4, 1/2, 1/4.
    assert statistics.paired_bootstrap([1.0, 3.0], [0.0, 0.0]) == (1.0, 3.0)
    assert statistics.paired_bootstrap([1.0, 3.0], [0.0, 0.0], confidence=0.4) == (2.0, 2.0)


def test_bootstrap_resamples_both_sides_jointly():
    # The seeds differ by 100 and the strategies by exactly 1: only unpaired resampling would see the 100.
    y = np.arange(5) * 100.0
    assert statistics.paired_bootstrap(y + 1, y) == (1.0, 1.0)
    low, high = statistics.paired_bootstrap(y + 1, y, statistic=lambda values: np.median(values, axis=1))
    assert (low, high) == (1.0, 1.0)


def test_bootstrap_is_the_same_every_time_and_moves_with_its_resamples():
    x, y = np.array(SCORES), np.zeros(5)
    assert statistics.paired_bootstrap(x, y) == statistics.paired_bootstrap(x, y)
    low, high = statistics.paired_bootstrap(x, y)
    assert min(SCORES) <= low < np.mean(SCORES) < high <= max(SCORES)
    assert statistics.paired_bootstrap(x, y, n_resamples=11) != (low, high)


def test_bootstrap_wants_pairs():
    assert statistics.paired_bootstrap([0.5], [0.4]) is None
    with pytest.raises(ValueError, match="same shape"):
        statistics.paired_bootstrap([0.5, 0.6], [0.4])


def test_a_difference_over_images_is_its_mean_with_wilcoxons_p_and_an_interval_of_resampled_images():
    differences = np.random.default_rng(0).normal(0.1, 0.3, 200)
    found = statistics.over_images(differences)
    assert found.mean == pytest.approx(differences.mean())
    assert found.p == pytest.approx(scipy.stats.wilcoxon(differences, method="approx").pvalue)
    # The percentile bootstrap of a mean is near the normal interval.
    half = 1.96 * differences.std() / np.sqrt(200)
    assert found.interval == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.006)
    assert statistics.over_images([0.25] * 5).interval == (0.25, 0.25)
    assert statistics.over_images([0.0, 0.0, 0.0]).p == 1.0
    assert statistics.over_images([0.5]) is None
