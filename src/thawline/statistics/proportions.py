"""Intervals of a proportion, which never leave 0 and 1, and of the difference of two."""

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


def difference_not_ruled_out(difference: float, n: float, quantile: float) -> Interval:
    """The differences of two shares that `n` common cases cannot rule out, however much alike the two are on them.

    Of a case the difference is -1, 0 or 1, so where its mean is d its variance is at least ``|d| (1 - |d|)``. What lies
    within `quantile` standard errors of that size is not ruled out: on the side of `difference` Wilson's interval, on
    the other side of 0 as far as the same bound reaches. Where no case tells the two apart it is 0 plus and minus
    Wilson's upper limit of no case in n, while every variance that is estimated from the cases is zero.
    """
    distance, spread = abs(difference), quantile**2 / n
    near, far = wilson(distance, n, quantile)
    # (d - distance)^2 = spread |d| (1 - |d|) for d below 0.
    reach = spread - 2 * distance
    root = reach**2 - 4 * (1 + spread) * distance**2
    if reach > 0 and root >= 0:
        near = -(reach + math.sqrt(root)) / (2 * (1 + spread))
    return (near, far) if difference >= 0 else (-far, -near)
