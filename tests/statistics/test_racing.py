"""Racing over seeds: levels by hand, drops by enumeration, and an error that is held over looks and pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from tests.statistics.simulated_races import NOISES, TRUTHS, race_errors
from thawline.statistics import looks_of, race, racing

LOOKS = looks_of([5, 7, 9], 0.05)


def test_levels_are_what_the_seeds_can_reach_and_add_up_to_alpha():
    # A third of .05 at 5 seeds is below 2/2^5; two thirds are two steps of 1/64; what is left are four steps of 1/256.
    assert [(look.seeds, look.level, look.can_decide) for look in LOOKS] == [
        (5, 0, False),
        (7, 2 / 64, True),
        (9, 4 / 256, True),
    ]
    assert [look.smallest_p for look in LOOKS] == [2 / 32, 2 / 128, 2 / 512]
    many = looks_of(range(2, 40), 0.05)
    assert 0.0499 < sum(look.level for look in many) <= 0.05


@pytest.mark.parametrize(
    ("seeds", "alpha", "first"),
    [([7, 10, 13], 0.05, 7), ([6, 7, 8], 0.05, 7), ([6], 0.05, 6), ([5], 0.05, None), ([3, 4, 5], 0.1, 5)],
)
def test_the_first_look_that_can_decide(seeds, alpha, first):
    assert next((look.seeds for look in looks_of(seeds, alpha) if look.can_decide), None) == first
    # Three looks at .05: a third of it, .0167, needs 2/2^7 = .0156.


@pytest.mark.parametrize(("seeds", "alpha"), [([], 0.05), ([3, 3], 0.05), ([0, 4], 0.05), ([4, 8], 0.0), ([4, 8], 1.0)])
def test_looks_that_are_none_are_refused(seeds, alpha):
    with pytest.raises(ValueError, match=r"alpha|looks"):
        looks_of(seeds, alpha)


def test_a_look_drops_what_the_better_one_beats_at_every_seed():
    wobble = np.array([0.03, 0.01, 0.02, 0.05, 0.04, 0.0])
    scores = np.column_stack([0.6 + wobble, 0.8 + wobble[::-1], 0.83 - wobble, 0.1 + wobble])
    # 1 and 2 cross; 0 and 3 lose to both at all six seeds, at p = 2/2^6. The better one of the two is named.
    found = [(item.loser, item.winner, item.p) for item in racing.defeats(scores, 0.05)]
    assert scores[:, 1].mean() > scores[:, 2].mean()
    assert found == [(0, 1, 2 / 64), (3, 1, 2 / 64)]
    assert racing.defeats(scores, 0.03) == []
    assert racing.defeats(scores[:, :1], 0.05) == []


def test_a_race_reads_nothing_of_a_candidate_after_its_drop():
    scores = np.tile([0.9, 0.9, 0.5, 0.8], (9, 1))
    scores[::2, 1] += 0.001
    scores[1:3, 3] = 0.92
    drops = race(scores, LOOKS)
    # With two seeds against it 3 has p = 4/2^6 at seven seeds and 4/2^8 at nine.
    assert [(drop.candidate, drop.look.seeds, drop.p) for drop in drops] == [(2, 7, 1 / 64), (3, 9, 4 / 256)]
    scores[7:, 2] = math.nan
    assert race(scores, LOOKS) == drops


def test_equal_candidates_are_never_dropped():
    scores = np.repeat(np.random.default_rng(0).random((9, 1)), 3, axis=1)
    assert race(scores, LOOKS) == ()


@pytest.mark.parametrize("seed", range(3))
def test_of_all_flips_of_the_same_differences_a_share_of_alpha_drops_any(seed):
    """Where nothing differs every flip of a seed's differences is as likely: the error is counted out, not sampled."""
    deviations = np.random.default_rng(seed).standard_t(3, size=(8, 4))
    deviations -= deviations.mean(axis=1, keepdims=True)
    looks = looks_of([7, 8], 0.05)
    signs = [np.array((1, *rest))[:, None] for rest in itertools.product([1, -1], repeat=7)]
    drops = [race(flips * deviations, looks) for flips in signs]
    at_first = np.mean([any(drop.look.seeds == 7 for drop in found) for found in drops])
    assert at_first == looks[0].level == 1 / 64
    assert at_first <= np.mean([bool(found) for found in drops]) <= 0.05


def test_an_audit_is_a_function_of_the_cell_and_keeps_its_share():
    audited = [racing.is_audited(0.2, "race", 3, cell) for cell in range(5000)]
    assert audited == [racing.is_audited(0.2, "race", 3, cell) for cell in range(5000)]
    assert scipy.stats.binomtest(sum(audited), 5000, 0.2).pvalue > 0.01
    assert not racing.is_audited(0.0, "race", 3, 1)
    assert racing.is_audited(1.0, "race", 3, 1)
    # A larger share audits the same cells and more.
    assert all(racing.is_audited(0.5, "race", 3, cell) for cell in range(5000) if audited[cell])


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("truth", TRUTHS)
def test_the_family_wise_error_is_held(truth, noise):
    errors = race_errors(truth, noise, races=500)
    # Three standard errors above alpha.
    assert errors.best_dropped <= errors.any_false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)
