"""Exact paired tests, against SciPy and all patterns counted out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from thawline import statistics

NAN = math.nan


def test_pairs_are_the_common_finite_replicates():
    x = {("0",): 0.8, ("1",): 0.9, ("2",): NAN, ("3",): 0.7}
    y = {("1",): 0.85, ("0",): 0.9, ("2",): 0.6, ("4",): 0.5}
    pairs = statistics.paired(x, y)
    assert pairs.keys == (("0",), ("1",))
    assert pairs.differences == pytest.approx([-0.1, 0.05])
    assert (pairs.only_x, pairs.only_y) == ((("3",),), (("2",), ("4",)))


def test_sign_flip_counts_every_pattern():
    d = [0.03, 0.01, -0.02, 0.05]
    sums = [abs(sum(s * v for s, v in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=4)]
    expected = sum(value >= abs(sum(d)) - 1e-12 for value in sums) / 16
    result = statistics.sign_flip(d)
    assert (result.p, result.n, result.exact) == (expected, 4, True)


def test_sign_flip_equals_scipys_exact_permutation_test():
    d = np.random.default_rng(0).normal(0.3, 1, size=9)
    expected = scipy.stats.permutation_test(
        (d, np.zeros(9)), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert statistics.sign_flip(d).p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_the_smallest_p_is_two_in_two_to_the_n(n):
    assert statistics.smallest_p(n) == min(1.0, 2 / 2**n)
    assert statistics.sign_flip(np.arange(1, n + 1)).p == statistics.smallest_p(n)


def test_sign_flip_beyond_enumeration_draws_and_says_so():
    d = np.random.default_rng(1).normal(0.5, 1, size=40)
    result = statistics.sign_flip(d)
    assert not result.exact
    assert result == statistics.sign_flip(d)
    assert result.p == pytest.approx(scipy.stats.ttest_1samp(d, 0).pvalue, abs=0.005)
    assert statistics.sign_flip(np.ones(40)).p == 1 / 100_001


def test_sign_flip_of_nothing_or_of_zeros_finds_nothing():
    assert statistics.sign_flip([]).p == 1
    assert statistics.sign_flip([0.0, 0.0, 0.0]).p == 1


@pytest.mark.parametrize("n", [3, 6, 11, 15])
def test_wilcoxon_is_scipys_exact_one(n):
    d = np.random.default_rng(n).normal(0.4, 1, size=n)
    assert statistics.wilcoxon(d).p == pytest.approx(scipy.stats.wilcoxon(d, method="exact").pvalue)


def test_wilcoxon_is_exact_under_ties_and_leaves_out_zeros():
    # Ranks of |d|: 1.5, 1.5, 3, the zero left out; signed +1.5 +1.5 +3 = 6 is reached by two patterns of eight.
    result = statistics.wilcoxon([0.1, 0.3 - 0.2, 0.5, 0.0])
    assert (result.p, result.n) == (0.25, 3)
    # Signed -1.5 +1.5 +3 = 3: both signs of the 3 with any two that cancel, and the two extremes.
    assert statistics.wilcoxon([-0.1, 0.1, 0.5]).p == 0.75


def test_mcnemar_is_the_exact_binomial_of_the_samples_apart():
    first = [True] * 10 + [False] * 2 + [True] * 5
    second = [False] * 10 + [True] * 2 + [True] * 5
    found = statistics.mcnemar(first, second)
    assert (found.only_first, found.only_second, found.samples) == (10, 2, 17)
    assert found.p == pytest.approx(scipy.stats.binomtest(2, 12).pvalue)
    assert statistics.mcnemar([True, False], [True, False]).p == 1
    assert statistics.mcnemar([True, False], [False, True]).p == 1
    with pytest.raises(ValueError, match="same samples"):
        statistics.mcnemar([True], [True, False])
