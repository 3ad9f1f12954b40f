"""The decision to store: a pure function of sizes and rates, with its reason in words."""

from __future__ import annotations

import math

import pytest
import torch

from thawline.thaw_line.cost import (
    Decision,
    MachineRates,
    decide,
    machine_rates,
    readable_seconds,
    shares,
    worth_most,
)

RATES = MachineRates(
    flops_per_second=1e9, read_bytes_per_second=1e6, disk_bytes_per_second=1e5, page_cache_bytes=2_000_000
)
# 0.02 s of arithmetic and 0.001 s of reading pixels for each of 1,000 samples; 1 MB stored, 1 s to read, 10 s to write.
WORK = {
    "prefix_flops_per_sample": 2e7,
    "bytes_per_sample": 1000,
    "input_bytes_per_sample": 1000,
    "samples": 1000,
    "epochs": 5,
    "runs_sharing": 3,
    "already_stored": False,
    "budget_bytes": 10**9,
    "free_bytes": 10**9,
    "rates": RATES,
}


def decided(mode="auto", **changes) -> Decision:
    return decide(mode, **{**WORK, **changes})


def test_many_passes_pay_for_one():
    decision = decided()
    assert decision.store
    assert decision.seconds_compute == pytest.approx(15 * 21)
    assert decision.seconds_store == pytest.approx(21 + 10 + 15 * 1)
    assert decision.reason == "stored: 1.0 MB for 1,000 samples; saves about 4 min of 5 min over 5 epochs x 3 runs"


def test_one_pass_does_not():
    decision = decided(epochs=1, runs_sharing=1)
    assert not decision.store
    assert decision.reason == (
        "not stored: 1.0 MB for 1,000 samples would not pay: "
        "about 32 s stored, 21 s computed on the fly, over 1 epoch x 1 run"
    )


def test_one_pass_pays_where_the_values_are_there():
    decision = decided(epochs=1, runs_sharing=1, already_stored=True, budget_bytes=0, free_bytes=0)
    assert decision.store
    assert decision.seconds_store == pytest.approx(1)
    assert decision.reason == (
        "stored already: 1.0 MB for 1,000 samples; saves about 20 s of 21 s over 1 epoch x 1 run"
    )


def test_on_the_way_to_another_line_only_writing_is_paid():
    decision = decided(epochs=1, runs_sharing=1, on_the_way=True)
    assert decision.store
    assert decision.seconds_store == pytest.approx(10 + 1)
    assert decision.seconds_compute == pytest.approx(21)


def test_where_there_is_not_room_for_all_the_most_seconds_a_byte_go_first():
    # 2, 0.5, 1 and -1 seconds a byte.
    lines = {"deep": (20.0, 10), "wide": (50.0, 100), "middle": (30.0, 30), "useless": (-5.0, 5)}
    assert worth_most(lines, 145) == set(lines)
    assert worth_most(lines, 140) == {"deep", "middle", "wide"}
    # What does not fit is left out, and what comes after it can still fit.
    assert worth_most(lines, 139) == {"deep", "middle", "useless"}
    assert worth_most(lines, 39) == {"deep", "useless"}
    assert worth_most(lines, 0) == set()


def test_a_pass_is_paid_by_the_lines_that_it_leads_to():
    # Reading 1 MB takes 1 s; ways of 6, 4 and 2 s; writing 1, 0 and 2 s: 16 s in all.
    passed = [(6e9, 100_000), (4e9, 0), (2e9, 200_000)]
    first, second, third = 7 / 3 + 1, 7 / 3 + 4 / 2, 7 / 3 + 4 / 2 + 2 + 2
    assert shares(passed, 1_000_000, RATES) == pytest.approx([first / 16, second / 16, third / 16])
    assert shares([(6e9, 100_000)], 1_000_000, RATES) == [1.0]


def test_runs_and_epochs_count_alike():
    assert decided(epochs=15, runs_sharing=1).seconds_store == decided(epochs=1, runs_sharing=15).seconds_store
    assert decided(epochs=1, runs_sharing=2).store
    assert decided(epochs=2, runs_sharing=1).store


def test_a_wide_shallow_line_is_computed():
    # 0.001 s of arithmetic against 0.02 s of reading: no number of passes makes it pay.
    decision = decided(prefix_flops_per_sample=1e6, bytes_per_sample=20_000, epochs=10_000)
    assert not decision.store
    assert decision.seconds_store > decision.seconds_compute


def test_a_gain_of_less_than_a_tenth_does_not_pay():
    # compute 105 s; store 21 + 10 + 5 = 36 s, and writing slower takes it to just above and just below 94.5 s.
    def at(write_seconds):
        rates = MachineRates(1e9, 1e6, 1e6 / write_seconds, math.inf)
        return decided(runs_sharing=1, rates=rates).store

    assert at(68.4)
    assert not at(68.6)


def test_what_memory_cannot_hold_is_read_from_the_disk():
    assert decided(samples=2000).seconds_store == pytest.approx(2 * (21 + 10 + 15 * 1))
    assert decided(samples=2001).seconds_store == pytest.approx(2.001 * (21 + 10 + 15 * 10))


def test_off_never_stores():
    assert decided("off", already_stored=True).reason == "not stored: cache=off"
    assert not decided("off").store


def test_on_stores_what_would_not_pay():
    decision = decided("on", epochs=1, runs_sharing=1)
    assert decision.store
    assert decision.reason == (
        "stored (cache=on): 1.0 MB for 1,000 samples; about 32 s stored, 21 s computed on the fly, over 1 epoch x 1 run"
    )
    assert decided("on").reason == decided("auto").reason


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_what_does_not_fit_is_not_stored(mode):
    assert decided(mode, budget_bytes=999_999) == Decision(
        False,
        "not stored: 1.0 MB for 1,000 samples do not fit the budget of 1.0 MB (cache.max_bytes)",
        decided().seconds_compute,
        decided().seconds_store,
    )
    assert decided(mode, budget_bytes=1_000_000).store
    assert decided(mode, free_bytes=500_000).reason == (
        "not stored: 1.0 MB for 1,000 samples do not fit the disk, which has 500.0 kB free"
    )
    assert decided(mode, prefix_flops_per_sample=0).reason == "not stored: nothing is computed before the thaw line"


def test_the_machine_is_measured_once_and_in_powers_of_two():
    rates = machine_rates("cpu", torch.float32)
    assert machine_rates("cpu", torch.float32) is rates
    assert machine_rates("cpu", torch.bfloat16) is not rates
    assert math.log2(rates.flops_per_second).is_integer()
    assert 1e8 < rates.flops_per_second < 1e15
    assert 1e8 < rates.page_cache_bytes < 1e14


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0.0 s"), (0.26, "0.3 s"), (9.94, "9.9 s"), (9.96, "10 s"), (119, "119 s"), (120, "2 min"),
     (7100, "118 min"), (7200, "2.0 h")],
)  # fmt: skip
def test_seconds_in_words(seconds, words):
    assert readable_seconds(seconds) == words
