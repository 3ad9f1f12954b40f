"""Tuning curves: the best of n trials against every choice of n, and bands that hold at every budget at once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from tests.statistics.simulated_searches import LAWS, band_coverage
from thawline.statistics import TuningCurve, expected_best, leaders, tuning_curve
from thawline.statistics.tuning_curves import distribution_band, holding_together

SCORES = [0.62, 0.81, 0.40, 0.78, 0.81, 0.55, 0.79]


def test_the_expected_best_is_the_mean_over_every_choice_of_trials():
    each = [np.mean([max(some) for some in itertools.combinations(SCORES, n)]) for n in range(1, 8)]
    assert expected_best(SCORES) == pytest.approx(each)
    curve = tuning_curve(SCORES, "max", (0, 1))
    assert (curve.quantity, curve.trials) == ("mean", 7)
    assert curve.best == pytest.approx(each)


def test_the_expected_best_of_hundreds_of_trials_is_exact_too():
    scores = np.arange(1, 501)
    # The largest of n of 1..N is n (N + 1) / (n + 1) in the mean.
    n = np.arange(1, 501)
    assert expected_best(scores) == pytest.approx(n * 501 / (n + 1))


@pytest.mark.parametrize(("n", "width"), [(2, 0.6), (5, 0.4), (20, 0.25), (100, 0.1), (400, 0.06)])
def test_bounds_of_one_width_hold_together_as_kolmogorov_and_smirnov_say(n, width):
    i = np.arange(1, n + 1)
    lower, upper = np.clip(i / n - width, 0, 1), np.clip((i - 1) / n + width, 0, 1)
    assert holding_together(lower, upper) == pytest.approx(scipy.stats.kstwo.cdf(width, n))


def test_bounds_of_two_draws_hold_together_as_an_area_says():
    # (U1, U2) ordered: twice the area of {.1 <= x <= .6, .3 <= y <= .8, x <= y} = 2 (.5 * .5 - .3 * .3 / 2).
    assert holding_together(np.array([0.1, 0.3]), np.array([0.6, 0.8])) == pytest.approx(2 * (0.25 - 0.045))
    assert holding_together(np.array([0.5, 0.5]), np.array([0.4, 0.9])) == 0


def test_the_band_of_one_trial_is_its_central_interval():
    lower, upper = distribution_band(1, 0.9)
    assert (lower[0], upper[0]) == pytest.approx((0.05, 0.95))
    curve = tuning_curve([0.7], "max", (0, 1), confidence=0.9)
    # F is at least .05 from the score on, so at most .95 of a trial lies above it; and the mirror.
    assert curve.best[0] == 0.7
    assert curve.upper[0] == pytest.approx(0.05 * 0.7 + 0.95 * 1)
    assert curve.lower[0] == pytest.approx(0.95 * 0 + 0.05 * 0.7)


@pytest.mark.parametrize("n", [8, 30])
def test_the_band_is_exact_with_equal_tails_and_bounds_the_best_trials(n):
    lower, upper = distribution_band(n, 0.95)
    assert holding_together(lower, upper) == pytest.approx(0.95)
    assert upper == pytest.approx(1 - lower[::-1])
    tails = scipy.stats.beta.cdf(lower, np.arange(1, n + 1), n + 1 - np.arange(1, n + 1))
    assert tails == pytest.approx(np.full(n, tails[0]))
    # At the best trial Dvoretzky, Kiefer and Wolfowitz bound F by 1, which bounds no best of many trials from below.
    assert (n - 1) / n + math.sqrt(math.log(2 / 0.05) / (2 * n)) > 1 > upper[-1]


def test_a_metric_without_bounds_has_a_median_and_of_less_is_better_the_mirror():
    curve = tuning_curve(SCORES, "max")
    assert curve.quantity == "median"
    # At least half of the bests of two lie at or below the i-th smallest where (i / 7)^2 is .5 or more: the fifth.
    assert curve.best[:2].tolist() == [0.78, 0.79]
    mirrored = tuning_curve([-score for score in SCORES], "min")
    assert mirrored.best.tolist() == (-curve.best).tolist()
    assert mirrored.lower.tolist() == (-curve.upper).tolist()
    assert mirrored.upper.tolist() == (-curve.lower).tolist()
    assert mirrored.gains.tolist() == curve.gains.tolist() == curve.best.tolist()
    bounded, of_losses = tuning_curve(SCORES, "max", (0, 1)), tuning_curve(1 - np.array(SCORES), "min", (0, 1))
    assert of_losses.best == pytest.approx(1 - bounded.best)
    assert of_losses.lower == pytest.approx(1 - bounded.upper)


def test_a_diverged_trial_was_paid_for():
    assert tuning_curve([0.8, math.nan], "max", (0, 1)).best == pytest.approx([0.4, 0.8])
    assert tuning_curve([0.2, math.nan], "min", (0, 1)).best == pytest.approx([0.6, 0.2])
    assert tuning_curve([3.0, 2.0, math.inf, math.nan, 1.0], "min").best[0] == 3.0
    with pytest.raises(ValueError, match="one score per trial"):
        tuning_curve([])


def test_the_band_holds_the_estimate_and_ends_at_the_bounds():
    curve = tuning_curve(np.random.default_rng(3).beta(5, 2, size=24), "max", (0, 1))
    assert (np.diff(curve.best) > 0).all()
    assert ((curve.lower > 0) & (curve.lower < curve.best) & (curve.best < curve.upper) & (curve.upper < 1)).all()


def flat(best, half_width, mode="max"):
    values = np.array(best, dtype=float)
    return TuningCurve(values, values - half_width, values + half_width, "mean", mode)


def test_the_leader_changes_where_the_curves_cross():
    probe, full = flat([0.80, 0.81, 0.81, 0.81], 0.02), flat([0.60, 0.75, 0.84, 0.90, 0.95], 0.02)
    told = [(part.first, part.last, part.leader, part.apart) for part in leaders([probe, full])]
    assert told == [(1, 2, 0, True), (3, 3, 1, False), (4, 4, 1, True)]
    losses = [flat(-curve.best, 0.02, "min") for curve in (probe, full)]
    assert [(part.first, part.last, part.leader, part.apart) for part in leaders(losses)] == told


def test_a_tie_does_not_change_the_leader():
    assert [part.leader for part in leaders([flat([0.5, 0.5], 0.1), flat([0.5, 0.5 + 1e-16], 0.1)])] == [0]
    assert not leaders([flat([0.5], 0.1)])[0].apart


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_bands_hold_everywhere_at_once_as_often_as_they_say(law):
    coverage = band_coverage(law, trials=12, searches=4000)
    tolerance = 3 * math.sqrt(0.95 * 0.05 / 4000)
    assert coverage.distribution >= 0.95 - tolerance
    if law != "eleven values":
        assert coverage.distribution <= 0.95 + tolerance
    # The bands of the curves hold wherever that of F does.
    assert coverage.mean >= coverage.distribution
    assert coverage.median >= coverage.distribution


def test_a_leader_whose_trials_all_diverged_is_replaced_by_any_other():
    trials = [[math.nan] * 4, [math.nan, math.nan, 0.5, 0.4]]
    curves = [tuning_curve(scores, "min", (0.0, None)) for scores in trials]
    # Of one trial the median of both is a diverged one.
    assert [(one.first, one.last, one.leader) for one in leaders(curves)] == [(1, 1, 0), (2, 4, 1)]
