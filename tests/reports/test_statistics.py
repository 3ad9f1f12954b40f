"""The statistics of a report, each against a value worked out by hand or by SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from thawline.reports import statistics

NAN = math.nan
SCORES = [0.81, 0.84, 0.79, 0.86, 0.80]


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


def test_pairs_are_the_common_finite_replicates():
    x = {("0",): 0.8, ("1",): 0.9, ("2",): NAN, ("3",): 0.7}
    y = {("1",): 0.85, ("0",): 0.9, ("2",): 0.6, ("4",): 0.5}
    pairs = statistics.paired(x, y)
    assert pairs.keys == (("0",), ("1",))
    assert pairs.differences == pytest.approx([-0.1, 0.05])
    assert (pairs.only_x, pairs.only_y) == ((("3",),), (("2",), ("4",)))


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


def test_holm_steps_down_and_keeps_the_order():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.5, never falling.
    assert statistics.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_few_seeds_are_said_in_words():
    told = statistics.smallest_p_in_words(3)
    assert "with 3 pairs of seeds no difference can reach p < 0.25 (2/2^3)" in told
    assert "none can be called significant" in told
    assert "none can be called significant" in statistics.smallest_p_in_words(5)  # 0.0625
    assert "significant" not in statistics.smallest_p_in_words(6)  # 0.03125
    assert "none can reach p < 0.281" in statistics.smallest_p_in_words(6, comparisons=9)
    assert "none can be called significant" in statistics.smallest_p_in_words(6, comparisons=9)
    assert "significant" not in statistics.smallest_p_in_words(10, comparisons=9)


@pytest.mark.parametrize("ties", [False, True])
def test_friedman_is_scipys_also_with_ties(ties):
    scores = np.random.default_rng(2).normal(size=(7, 4))
    scores = scores.round(0) if ties else scores
    expected = scipy.stats.friedmanchisquare(*scores.T)
    found = statistics.friedman(scores)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert sum(found.mean_ranks) == pytest.approx(4 * 5 / 2)


def test_friedman_gives_rank_one_to_the_best():
    scores = [[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]]
    assert statistics.friedman(scores).mean_ranks == (1, 2, 3)
    assert statistics.friedman(scores, mode="min").mean_ranks == (3, 2, 1)
    assert statistics.friedman([[1, 1, 1], [2, 2, 2]]).p == 1


def test_friedman_wants_data_sets_and_strategies():
    with pytest.raises(ValueError, match="two data sets and three strategies"):
        statistics.friedman([[0.1, 0.2, 0.3]])


def test_wilcoxon_holm_corrects_over_all_pairs():
    scores = np.random.default_rng(3).normal([0, 0.1, 2], 1, size=(8, 3))
    raw = [
        scipy.stats.wilcoxon(scores[:, a] - scores[:, b], method="exact").pvalue for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    expected = statistics.holm(raw)
    matrix = statistics.wilcoxon_holm(scores)
    assert [matrix[0, 1], matrix[0, 2], matrix[1, 2]] == pytest.approx(expected)
    assert (matrix == matrix.T).all()
    assert (np.diag(matrix) == 1).all()


def test_cliques_are_the_maximal_stretches_that_nothing_tells_apart():
    # Ranking: 2, 0, 1, 3. Told apart: 2 from 1 and 3, and 0 from 3.
    p = np.ones((4, 4))
    for a, b in ((2, 1), (2, 3), (0, 3)):
        p[a, b] = p[b, a] = 0.01
    assert statistics.cliques([2.0, 3.0, 1.0, 4.0], p) == [(2, 0), (0, 1), (1, 3)]
    assert statistics.cliques([2.0, 3.0, 1.0, 4.0], np.ones((4, 4))) == [(2, 0, 1, 3)]
    assert statistics.cliques([1.0, 2.0], np.array([[1, 0.01], [0.01, 1]])) == [(0,), (1,)]


def test_each_seed_chooses_on_validation_and_the_oracle_on_the_test():
    validation = [{"a": (0.7, 0), "b": (0.9, 0)}, {"a": (0.8, 0), "b": (0.8, 0)}, {"a": (0.8, 0), "b": (0.6, 0)}]
    test = [{"a": 0.75, "b": 0.85}, {"a": 0.70, "b": 0.90}, {"a": 0.95, "b": 0.50}]
    choice = statistics.choose_per_replicate(validation, test)
    assert choice.chosen == (1, 0)  # seed a: 1 and 2 tie, the first is taken
    assert choice.test_of_chosen == (0.70, 0.85)
    assert choice.oracle == (2, 1)
    assert choice.regret == pytest.approx((0.25, 0.05))
    assert choice.counts() == {0: 1, 1: 1}
    assert choice.left_out == ()


def test_the_second_part_of_a_rank_decides_between_equals():
    validation = [{"a": (0.8, -0.5)}, {"a": (0.8, -0.3)}, {"a": (0.7, -0.1)}]
    assert statistics.choose_per_replicate(validation, [{"a": 0.1}] * 3).chosen == (1,)


def test_where_less_is_better_the_choice_and_the_regret_turn():
    validation = [{"a": (-0.5, 0)}, {"a": (-0.3, 0)}]
    test = [{"a": 0.4}, {"a": 0.6}]
    choice = statistics.choose_per_replicate(validation, test, mode="min")
    assert (choice.chosen, choice.test_of_chosen, choice.oracle) == ((1,), (0.6,), (0,))
    assert choice.regret == pytest.approx((0.2,))


def test_a_seed_that_misses_a_candidate_is_left_out_and_a_diverged_one_is_not_chosen():
    validation = [{"a": (0.7, 0), "b": (0.9, 0), "c": (0.5, 0)}, {"a": (0.8, 0), "c": (NAN, 0)}]
    test = [{"a": 0.7, "b": 0.9, "c": 0.4}, {"a": 0.8, "c": NAN}]
    choice = statistics.choose_per_replicate(validation, test)
    assert (choice.keys, choice.chosen, choice.left_out) == (("a", "c"), (1, 0), ("b",))


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
