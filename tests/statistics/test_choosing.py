"""The choice that each seed makes on validation, and what it loses."""

from __future__ import annotations

import math

import pytest

from thawline import statistics

NAN = math.nan


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


def test_an_end_is_the_smallest_or_the_largest_of_several_values():
    rates = [0.1, 0.001, 0.01, 0.1]
    assert [statistics.end_of(rate, rates) for rate in (0.001, 0.01, 0.1)] == ["smallest", None, "largest"]
    assert statistics.end_of(0.1, [0.1, 0.1]) is None
