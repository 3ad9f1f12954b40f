"""Equivalence against statsmodels' two one-sided tests, and the number of seeds against its power of the t test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from thawline import statistics


@pytest.mark.parametrize("seed", range(8))
def test_a_90_percent_interval_within_the_margin_is_two_one_sided_tests_at_5_percent(seed):
    draws = np.random.default_rng(seed)
    x = draws.normal(0.8, 0.02, 6)
    y = x + draws.normal(0.003, 0.008, 6)
    p, *_ = ttost_paired(x, y, -0.01, 0.01)
    interval = statistics.t_interval(x - y, statistics.EQUIVALENCE_CONFIDENCE)
    assert statistics.equivalent(interval, 0.01) == (p < 0.05)


def test_a_large_p_is_not_equivalence():
    assert not statistics.equivalent((-0.02, 0.03), 0.01)
    assert not statistics.equivalent((-0.01, 0.005), 0.01)
    assert statistics.equivalent((-0.009, 0.005), 0.01)
    assert not statistics.equivalent(None, 0.01)
    assert not statistics.equivalent((0.0, 0.0), None)


@pytest.mark.parametrize("effect", [0.1, 0.2, 0.5, 1.0, 1.5, 2.5, 5.0])
def test_seeds_needed_are_the_fewest_that_give_the_t_test_its_power(effect):
    # Three values around `effect` with a standard deviation of 1.
    needed = statistics.seeds_needed([effect - 1, effect, effect + 1])
    assert statistics.seeds_needed([1 - effect, -effect, -1 - effect]) == needed
    assert TTestPower().power(effect, needed, 0.05) >= 0.8
    assert needed == 2 or TTestPower().power(effect, needed - 1, 0.05) < 0.8


def test_seeds_needed_at_the_ends():
    assert statistics.seeds_needed([0.1, 0.1, 0.1]) == 2
    assert statistics.seeds_needed([1e9, 1e9 + 1]) == 2
    assert statistics.seeds_needed([-0.1, 0.1]) == math.inf
    assert statistics.seeds_needed([0.1]) is None
