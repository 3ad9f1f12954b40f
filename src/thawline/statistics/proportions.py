"""Intervals of a proportion, which never leave 0 and 1."""

from __future__ import annotations

import math

from thawline.statistics.intervals import Interval


def wilson(share: float, n: float, quantile: float) -> Interval:
    """Wilson's score interval of a `share` of `n` cases, at a two-sided `quantile` of the normal or t distribution.

    It keeps its coverage where few cases or a share near 0 or 1 make the normal approximation fail (Wilson 1927; Bowyer
    et al. 2025). `n` need not be whole: of dependent cases it is the number of independent ones with the same variance.
    """
    square = quantile**2
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
