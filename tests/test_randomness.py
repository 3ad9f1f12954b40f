import itertools
import subprocess
import sys

import numpy as np
import torch

from thawline.randomness import counter_seed, generator, permutation, seeded


def test_seeds_are_the_same_for_ever():
    # Records of other machines and versions refer to these numbers.
    assert counter_seed("augment", 0, 1, 2) == 6614219296816096252
    assert permutation(8, "order", 0, 1).tolist() == [0, 1, 4, 2, 5, 7, 3, 6]


def test_seeds_are_the_same_in_another_process_with_another_hash_seed():
    code = "from thawline.randomness import counter_seed; print(counter_seed('augment', 1, 2, 3))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {str(counter_seed("augment", 1, 2, 3))}


def test_different_counters_give_different_seeds():
    keys = [("a", 0, 12), ("a", 1, 2), ("a", 1, 2, 0), ("b", 0, 12), ("a", "0", 12), ("a0", 12), ("a",), (), (0, 0, 12)]
    assert len({counter_seed(*key) for key in keys}) == len(keys)
    counters = itertools.product(range(5), range(20), range(200))
    seeds = {counter_seed("augment", *counter) for counter in counters}
    assert len(seeds) == 20_000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_permutations_hold_every_number_once():
    for n in (0, 1, 1000):
        assert sorted(permutation(n, "order", 3).tolist()) == list(range(n))
    assert permutation(1000, "order", 3).dtype == np.int64
    assert permutation(1000, "order", 3).tolist() == permutation(1000, "order", 3).tolist()
    assert permutation(1000, "order", 3).tolist() != permutation(1000, "order", 4).tolist()


def test_generators_with_different_counters_are_independent():
    first, second = generator("x", 0).normal(size=20_000), generator("x", 1).normal(size=20_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(first.mean()) < 0.03


def test_seeded_starts_from_the_counters_and_leaves_no_trace():
    before = torch.get_rng_state()
    with seeded("augment", 0, 1):
        first = torch.rand(4)
        with seeded("inner"):
            torch.rand(7)
        second = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    with seeded("augment", 0, 1):
        assert torch.equal(torch.rand(4), first)
        assert torch.equal(torch.rand(4), second)
    with seeded("augment", 0, 2):
        assert not torch.equal(torch.rand(4), first)


def test_seeded_restores_after_an_error():
    before = torch.get_rng_state()
    try:
        with seeded("augment"):
            torch.rand(1)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.get_rng_state(), before)
