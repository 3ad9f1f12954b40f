"""The variance of a mean over seeds and images, against statsmodels' two-way table, SciPy, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint

from thawline import statistics
from thawline.statistics import TwoWay
from thawline.statistics.proportions import difference_not_ruled_out

EASE = np.linspace(0.6, 1.0, 60)[None] - np.array([[0.0], [0.1], [0.2], [0.1]])
RIGHT = np.random.default_rng(0).random((4, 60)) < EASE


def test_mean_squares_are_those_of_statsmodels():
    found = statistics.two_way(RIGHT)
    cells = pd.DataFrame(RIGHT.astype(float)).stack().rename_axis(["seed", "image"]).rename("right").reset_index()
    table = anova_lm(ols("right ~ C(seed) + C(image)", cells).fit())
    squares = table["mean_sq"] / RIGHT.size
    assert found.of_seeds == pytest.approx(squares["C(seed)"])
    assert found.of_images == pytest.approx(squares["C(image)"])
    assert found.of_both == pytest.approx(squares["Residual"])
    assert (found.mean, found.seeds, found.images) == (pytest.approx(RIGHT.mean()), 4, 60)


def test_the_parts_are_the_errors_over_seeds_alone_and_over_images_alone():
    found = statistics.two_way(RIGHT)
    assert math.sqrt(found.of_seeds) == pytest.approx(scipy.stats.sem(RIGHT.mean(axis=1)))
    assert math.sqrt(found.of_images) == pytest.approx(scipy.stats.sem(RIGHT.mean(axis=0)))


def test_variance_and_degrees_by_hand():
    # Seeds have means 1, 2, 3 and images 1, 3: no interaction but +-0.5 in the first and last seed.
    scores = np.array([[0.5, 1.5], [1.0, 3.0], [1.5, 4.5]])
    # MS_S = 2 * 2 / 2 = 2; MS_I = 3 * 2 / 1 = 6; residuals -+0.5, 0, +-0.5: MS_E = 4 * 0.25 / 2 = 0.5.
    found = statistics.two_way(scores)
    assert (found.of_seeds * 6, found.of_images * 6, found.of_both * 6) == pytest.approx((2, 6, 0.5))
    assert found.variance * 6 == pytest.approx(1.5 + 5.5 + 0.5)
    assert found.degrees == pytest.approx(7.5**2 / (2**2 / 2 + 6**2 / 1 + 0.5**2 / 2))


@pytest.mark.parametrize(
    ("of_seeds", "of_images", "variance", "degrees"),
    [(3.0, 1.0, 3.0, 4), (1.0, 3.0, 3.0, 9), (1.0, 1.0, 2.0, 36)],
    ids=["images add nothing", "seeds add nothing", "neither does"],
)
def test_a_part_below_the_error_adds_nothing(of_seeds, of_images, variance, degrees):
    found = TwoWay(0.5, 5, 10, of_seeds, of_images, 2.0)
    assert (found.variance, found.degrees) == (variance, pytest.approx(degrees))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_with_three_seeds_the_wider_interval_counts_and_with_more_the_one_over_both(seeds):
    draws = np.random.default_rng(0)
    # Images move these scores; the seeds' means differ by chance alone, and far apart for so few of them.
    scores = (
        draws.normal(size=40) + 0.5 * draws.normal(size=(seeds, 40)) + np.array([0.0, 0.3, 0.1, 0.2, 0.1])[:seeds, None]
    )
    found = statistics.two_way(scores)
    half = scipy.stats.t.ppf(0.975, found.degrees) * math.sqrt(found.variance)
    over_seeds = statistics.t_interval(scores.mean(axis=1))
    both = (found.mean - half, found.mean + half)
    assert (over_seeds[1] - over_seeds[0] > 2 * half) == (seeds <= 3)
    assert found.interval() == pytest.approx(over_seeds if seeds <= 3 else both)


def test_one_seed_speaks_of_images_alone():
    scores = np.array([[0.2, 0.4, 0.9, 0.5]])
    found = statistics.two_way(scores)
    assert (found.of_seeds, found.of_both) == (None, None)
    assert found.interval() == pytest.approx(statistics.t_interval(scores[0]))


def test_nothing_is_said_of_one_image():
    assert statistics.two_way([[0.5], [0.7]]) is None
    with pytest.raises(ValueError, match="not finite"):
        statistics.two_way([[0.5, math.nan]])


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (270, 271), (36, 36)])
def test_wilsons_interval_is_scipys_and_statsmodels(right, n):
    found = statistics.wilson(right / n, n, scipy.stats.norm.ppf(0.975))
    by_scipy = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert found == pytest.approx((by_scipy.low, by_scipy.high))
    assert found == pytest.approx(proportion_confint(right, n, method="wilson"))


def test_the_interval_of_one_seeds_accuracy_is_wilsons_with_the_t_quantile():
    right = np.array([[1.0] * 30 + [0.0] * 6])
    found = statistics.two_way(right).interval(proportion=True)
    # The two-way variance has n - 1 in the denominator, so there are n - 1 independent images.
    assert found == pytest.approx(statistics.wilson(30 / 36, 35, scipy.stats.t.ppf(0.975, 35)))


@pytest.mark.parametrize("wrong", [0, 1, 36])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_an_interval_of_a_proportion_never_leaves_0_and_1_and_is_never_empty(wrong, seeds):
    right = np.ones((seeds, 36))
    right[:, :wrong] = 0.0
    low, high = statistics.two_way(right).interval(bounds=(0.0, 1.0), proportion=True)
    assert 0.0 <= low < high <= 1.0
    assert high - low > 0.05


def test_resampled_images_give_the_mean_squares_of_a_mean():
    draws = np.random.default_rng(1).integers(0, 60, size=(20_000, 60))
    resampled = np.stack([seed[draws].mean(axis=1) for seed in RIGHT])
    found = statistics.two_way_resampled(RIGHT.mean(axis=1), resampled, images=60)
    exact = statistics.two_way(RIGHT)
    assert (found.mean, found.of_seeds) == pytest.approx((exact.mean, exact.of_seeds))
    assert found.of_images == pytest.approx(exact.of_images, rel=0.03)
    assert found.of_both == pytest.approx(exact.of_both, rel=0.03)


def test_resamples_without_a_value_are_left_out_for_all_seeds():
    resampled = np.array([[0.5, 0.6, math.nan, 0.7], [0.4, 0.5, 0.9, 0.6]])
    found = statistics.two_way_resampled([0.6, 0.5], resampled, images=10)
    assert found == statistics.two_way_resampled([0.6, 0.5], resampled[:, [0, 1, 3]], images=10)
    assert found.of_images == pytest.approx(np.var([0.45, 0.55, 0.65], ddof=1) * 10 / 9)
    assert statistics.two_way_resampled([0.6], [[0.5]], images=10) is None


@pytest.mark.parametrize("difference", [0.0, 0.002, 0.01, 0.2, -0.01, 1.0])
def test_differences_not_ruled_out_are_those_whose_least_variance_allows_them(difference):
    n, quantile = 150, 1.7
    low, high = difference_not_ruled_out(difference, n, quantile)
    grid = np.linspace(-1, 1, 2_000_001)
    allowed = grid[np.abs(grid - difference) <= quantile * np.sqrt(np.abs(grid) * (1 - np.abs(grid)) / n) + 1e-12]
    assert (low, high) == pytest.approx((allowed.min(), allowed.max()), abs=3e-6)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_models_that_agree_on_every_image_may_differ_on_others_as_far_as_wilson_says(seeds):
    for images in (36, 1000):
        found = statistics.two_way(np.zeros((seeds, images)))
        assert found.interval() == (0.0, 0.0)
        limit = statistics.wilson(0.0, images, scipy.stats.t.ppf(0.95, images - 1))[1]
        interval = found.interval(statistics.EQUIVALENCE_CONFIDENCE, difference=True)
        assert interval == pytest.approx((-limit, limit))
        assert statistics.equivalent(interval, 0.01) == (images == 1000)


def test_where_models_differ_on_many_images_the_interval_of_their_difference_is_that_of_the_variance():
    differences = RIGHT.astype(float) - RIGHT[:, ::-1]
    found = statistics.two_way(differences)
    assert found.interval(difference=True) == pytest.approx(found.interval())
    # The scores' own variance over that of the mean, as if they were independent.
    assert found.independent == pytest.approx(min(differences.var() / found.variance, differences.size))
