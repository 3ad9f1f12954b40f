"""Which of several rows may still be the best: those that no rival beats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.statistics.intervals import CONFIDENCE, rounding_spread
from thawline.statistics.samples import Mode, finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Accuracies are ratios: differences that are equal in truth may differ in the last bits.
_DIGITS = 12


def in_the_running(
    scores: ArrayLike, mode: Mode = "max", confidence: float = CONFIDENCE, resolution: float = 0.0
) -> tuple[bool, ...]:
    """For each of K rows whether it is still in the running, by `scores` (K, S) of the same S seeds.

    A row is out if some rival beats it: if the paired t of their differences is above the one-sided t quantile at
    ``1 - alpha / (K - 1)``, so that the best row is out with a probability of at most alpha however many rivals there
    are (Bonferroni over the rivals; multiple comparisons with the best, Hsu 1984). Below two seeds nothing is out.

    A metric that counts images moves in steps of `resolution`, one over their number. Few seeds may then differ by the
    same number of images by chance, so a spread below that of rounding to such steps is taken for that (Sheppard 1898).
    """
    table = finite(scores)
    rows, seeds = len(table), len(table.T)
    if rows < 2 or seeds < 2:
        return (True,) * rows
    limit = t_limit(rows, seeds, confidence)
    gains = table if mode == "max" else -table
    return tuple(bool(_t(gains - row, resolution).max() <= limit) for row in gains)


def beaten(differences: ArrayLike, rows: int, confidence: float = CONFIDENCE, resolution: float = 0.0) -> int:
    """The same of one pair among `rows` rows: 1 if the first beats the second, -1 if the second does, 0 if neither.

    `differences` (S,) are first less second, of a metric of which more is better.
    """
    d = finite(differences)
    if d.size < 2 or rows < 2:
        return 0
    t = float(_t(d, resolution))
    return int(math.copysign(1, t)) if abs(t) > t_limit(rows, d.size, confidence) else 0


def t_limit(rows: int, seeds: int, confidence: float = CONFIDENCE) -> float:
    """From which paired t on one of `rows` rows beats another over `seeds` seeds."""
    from scipy.special import stdtrit

    return float(stdtrit(seeds - 1, 1 - (1 - confidence) / (rows - 1)))


def _t(differences: ArrayLike, resolution: float) -> NDArray[np.float64]:
    """The paired t of differences (..., S), shape (...)."""
    d = np.round(np.asarray(differences, dtype=np.float64), _DIGITS)
    mean, spread = d.mean(axis=-1), np.maximum(d.std(axis=-1, ddof=1), rounding_spread(resolution))
    error = spread / math.sqrt(d.shape[-1])
    # The same difference for every seed has a spread of the last bits alone.
    alike = error <= 1e-12
    found: NDArray[np.float64] = np.where(alike, np.copysign(np.inf, mean), mean / np.where(alike, 1.0, error))
    return np.where(alike & (mean == 0), 0.0, found)
