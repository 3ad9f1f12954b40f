"""Whether a difference is small enough not to matter, and how many seeds would show one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.statistics.intervals import Interval
from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

EQUIVALENCE_CONFIDENCE = 0.9
"""Of the interval that shows equivalence: two one-sided tests at 5 % each (Schuirmann 1987)."""


def equivalent(interval: Interval | None, margin: float | None) -> bool:
    """Whether a 90 % interval of a difference lies inside plus and minus `margin`; without one of them, no."""
    if interval is None or margin is None:
        return False
    return -margin < interval[0] and interval[1] < margin


def seeds_needed(differences: ArrayLike, confidence: float = 0.95, power: float = 0.8) -> float | None:
    """How many seeds would tell two rows apart whose differences are as `differences`, (S,): at least 2.

    ``((z_{.975} + z_{.8}) s_d / mean)^2`` rounded up: a two-sided test at 5 % finds the difference four times of five.
    None below two pairs; infinite where the mean difference is zero.
    """
    from scipy.special import ndtri

    d = np.round(finite(differences), 12)
    if d.size < 2:
        return None
    if not d.mean():
        return math.inf
    quantiles = float(ndtri(0.5 + confidence / 2) + ndtri(power))
    return max(2, math.ceil((quantiles * float(d.std(ddof=1)) / float(d.mean())) ** 2))
