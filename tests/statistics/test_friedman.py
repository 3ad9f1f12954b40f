"""Ranks over several data sets, against SciPy, and what nothing tells apart."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from thawline import statistics


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


def test_means_that_differ_in_their_last_bits_share_a_rank():
    assert np.mean([0.1, 0.2]) != 0.15
    scores = [[np.mean([0.1, 0.2]), 0.15, 0.1], [0.5, 0.6, 0.7]]
    assert statistics.friedman(scores).mean_ranks == (2.25, 1.75, 2)


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
