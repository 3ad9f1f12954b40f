"""Intervals of a mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

CONFIDENCE = 0.95

Interval = tuple[float, float]
Bounds = tuple[float | None, float | None]


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE, resolution: float = 0.0) -> Interval | None:
    """The t interval of the mean of `values`, shape (N,); None below two values.

    Of values that move in steps of `resolution` a spread below that of rounding to such steps is taken for that, as
    `in_the_running` does.
    """
    from scipy.special import stdtrit

    sample = finite(values)
    if sample.size < 2:
        return None
    spread = max(float(sample.std(ddof=1)), rounding_spread(resolution))
    half = float(stdtrit(sample.size - 1, 0.5 + confidence / 2)) * spread / math.sqrt(sample.size)
    mean = float(sample.mean())
    return mean - half, mean + half


def rounding_spread(resolution: float) -> float:
    """The standard deviation that rounding to steps of `resolution` alone brings (Sheppard 1898)."""
    return resolution / math.sqrt(12)


def within(interval: Interval | None, bounds: Bounds) -> Interval | None:
    """The part of an interval that lies between the bounds of what it is an interval of.

    A mean of accuracies is never outside 0 and 1, so what is cut off can hold no true value: the coverage stays.
    """
    if interval is None:
        return None
    lower, upper = bounds
    low, high = interval
    return low if lower is None else max(low, lower), high if upper is None else min(high, upper)
