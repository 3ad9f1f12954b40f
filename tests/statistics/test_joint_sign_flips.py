"""Joint sign flips: p values against every sign vector, with t from SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from thawline.statistics import holm, joint_sign_flips, sign_flip


def by_enumeration(differences):
    """Stepped-down max |t| over all 2^S sign vectors, column after column in falling order of |t|."""
    size, columns = differences.shape

    def t(table):
        return np.abs(scipy.stats.ttest_1samp(table, 0).statistic)

    flipped = [t(np.array(signs)[:, None] * differences) for signs in itertools.product([1, -1], repeat=size)]
    observed = t(differences)
    adjusted, highest = np.empty(columns), 0.0
    left = list(range(columns))
    while left:
        best = max(left, key=lambda column: observed[column])
        share = np.mean([table[left].max() >= observed[best] * (1 - 1e-9) for table in flipped])
        highest = max(highest, share)
        adjusted[best] = highest
        left.remove(best)
    return adjusted


@pytest.mark.parametrize(("size", "columns"), [(4, 1), (6, 3), (7, 5)])
def test_p_values_are_those_of_every_sign_vector(size, columns):
    differences = np.random.default_rng(size).normal(loc=0.6, size=(size, columns))
    assert joint_sign_flips(differences) == pytest.approx(by_enumeration(differences))


def test_one_column_is_the_sign_flip_test():
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.4, 0.15])
    assert joint_sign_flips(differences[:, None]) == pytest.approx([sign_flip(differences).p])


def test_six_seeds_reach_the_floor_however_many_columns_there_are():
    clear = np.random.default_rng(0).uniform(0.9, 1.1, size=(6, 45))
    assert joint_sign_flips(clear) == pytest.approx(np.full(45, 2 / 2**6))
    assert min(holm([2 / 2**6] * 45)) > 0.5


def test_columns_that_never_differ_have_p_one():
    differences = np.column_stack([np.zeros(6), np.linspace(1, 1.5, 6)])
    assert joint_sign_flips(differences) == pytest.approx([1.0, 2 / 2**6])
    assert joint_sign_flips(np.zeros((0, 2))) == pytest.approx([1, 1])


def test_many_seeds_are_sampled_and_the_pattern_of_the_data_counts():
    rng = np.random.default_rng(1)
    d = np.column_stack([rng.normal(size=20), rng.uniform(0.9, 1.1, size=20)])
    p = joint_sign_flips(d)
    assert p[1] == pytest.approx(1 / 100_001)  # only the pattern of the data
    # The first column is compared with itself alone once the second one is rejected.
    assert p[0] == pytest.approx(sign_flip(d[:, 0]).p, abs=0.01)


def test_a_diverged_run_is_no_number():
    with pytest.raises(ValueError, match="not finite"):
        joint_sign_flips([[0.1], [np.nan]])
