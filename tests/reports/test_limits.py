"""What few seeds can show, in words."""

from __future__ import annotations

from thawline.reports.limits import smallest_p_in_words


def test_few_seeds_are_said_in_words():
    told = smallest_p_in_words(3)
    assert "with 3 pairs of seeds no difference can reach p < 0.25 (2/2^3)" in told
    assert "none can be called significant" in told
    assert "none can be called significant" in smallest_p_in_words(5)  # 0.0625
    assert "significant" not in smallest_p_in_words(6)  # 0.03125
    assert "none can reach p < 0.281" in smallest_p_in_words(6, comparisons=9)
    assert "none can be called significant" in smallest_p_in_words(6, comparisons=9)
    assert "significant" not in smallest_p_in_words(10, comparisons=9)
