"""Whether a difference is small enough not to matter, and how many seeds would show one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.statistics.intervals import CONFIDENCE, Interval
from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EQUIVALENCE_CONFIDENCE = 0.9
"""Of the interval that shows equivalence: two one-sided tests at 5 % each (Schuirmann 1987)."""

# In standard errors: so far out two seeds find the difference nearly always, and the distribution is hard to compute.
_FAR = 30.0

# From so many seeds on the normal approximation is right to the seed or two.
_MANY = 1000


def equivalent(interval: Interval | None, margin: float | None) -> bool:
    """Whether a 90 % interval of a difference lies inside plus and minus `margin`; without one of them, no."""
    if interval is None or margin is None:
        return False
    return -margin < interval[0] and interval[1] < margin


def seeds_needed(differences: ArrayLike, confidence: float = CONFIDENCE, power: float = 0.8) -> float | None:
    """How many seeds would tell two rows apart whose differences are as `differences`, (S,): at least 2.

    With so many the paired two-sided t test at 5 % finds the difference four times of five, if mean and spread are
    those of `differences`. The normal approximation ``((z_{.975} + z_{.8}) s_d / mean)^2`` is some two seeds less,
    with which the test would find a large difference half of the time. None below two pairs; infinite where the mean
    difference is zero.
    """
    from scipy.special import ndtri

    d = np.round(finite(differences), 12)
    if d.size < 2:
        return None
    if not d.mean():
        return math.inf
    quantiles = float(ndtri(0.5 + confidence / 2) + ndtri(power))
    effect = abs(float(d.mean())) / float(d.std(ddof=1)) if d.std(ddof=1) else math.inf
    needed = max(2, math.ceil((quantiles / effect) ** 2))
    while needed < _MANY and _power(needed, effect, confidence) < power:
        needed += 1
    return needed


def _power(seeds: int, effect: float, confidence: float) -> float:
    """How likely a paired t test of so many seeds finds a difference of `effect` standard deviations, either way."""
    from scipy.special import nctdtr, stdtrit

    limit, shift = float(stdtrit(seeds - 1, 0.5 + confidence / 2)), effect * math.sqrt(seeds)
    if shift > _FAR:
        return 1.0
    return float(nctdtr(seeds - 1, shift, -limit) + 1 - nctdtr(seeds - 1, shift, limit))
