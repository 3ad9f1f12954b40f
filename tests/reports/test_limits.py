"""What few seeds can show, in words."""

from __future__ import annotations

from tests.make_records import record, sweep
from tests.reports.depth_sweeps import study_of
from thawline.reports.limits import crossed_seeds, smallest_p_in_words
from thawline.reports.wording import warnings


def test_few_seeds_are_said_in_words():
    told = smallest_p_in_words(3)
    assert "with 3 pairs of seeds no difference can reach p < 0.25 (2/2^3)" in told
    assert "none is significant at 0.05 by these tests" in told
    assert "none is significant at 0.05 by these tests" in smallest_p_in_words(5)  # 0.0625
    assert "significant" not in smallest_p_in_words(6)  # 0.03125
    assert "none can reach p < 0.281" in smallest_p_in_words(6, comparisons=9)
    assert "none is significant at 0.05 by these tests" in smallest_p_in_words(6, comparisons=9)
    assert "significant" not in smallest_p_in_words(10, comparisons=9)


def test_crossed_seeds_are_said_not_to_be_independent(tmp_path):
    axes = {"freeze_policy.k": ["0", "1"], "seed": ["0", "1"], "data_seed": ["0", "1", "2"]}

    def made(overrides, place):
        return record(overrides, k=int(place["freeze_policy.k"]))

    (said,) = crossed_seeds(study_of(sweep(tmp_path / "crossed", axes, made)))
    assert said.startswith("Seeds are crossed, 2 of seed with 3 of data_seed: intervals and tests take the 6 ")
    assert said in warnings(study_of(tmp_path / "crossed" / "sweeps" / "sweep"))

    def together(overrides, place):
        return made(overrides, place) if place["seed"] == place["data_seed"] else None

    axes = {**axes, "data_seed": ["0", "1"]}
    assert crossed_seeds(study_of(sweep(tmp_path / "together", axes, together))) == []
    assert crossed_seeds(study_of(sweep(tmp_path / "one", {"seed": ["0", "1"]}, lambda o, _: record(o)))) == []
