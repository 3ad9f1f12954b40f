"""Random searches with a known law of their scores: how often a band of the tuning curve holds the truth everywhere.

``python -m tests.statistics.simulated_searches`` prints the table of docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from thawline.statistics import tuning_curve
from thawline.statistics.tuning_curves import distribution_band

_GRID = np.linspace(0, 1, 11)
_SHARES = scipy.stats.binom.pmf(np.arange(11), 10, 0.7)


@dataclass(frozen=True)
class Law:
    """Scores between 0 and 1: how they are drawn, P(score <= x), and the mean and the median of the best of n."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    distribution: Callable[[np.ndarray], np.ndarray]
    mean: Callable[[np.ndarray], np.ndarray]
    median: Callable[[np.ndarray], np.ndarray]


LAWS = {
    "uniform": Law(lambda rng, n: rng.random(n), lambda x: x, lambda n: n / (n + 1), lambda n: 0.5 ** (1 / n)),
    # F = x^8: most trials are good. The best of n is the best of 8n uniform ones.
    "most trials good": Law(
        lambda rng, n: rng.random(n) ** (1 / 8),
        lambda x: x**8,
        lambda n: 8 * n / (8 * n + 1),
        lambda n: 0.5 ** (1 / (8 * n)),
    ),
    "eleven values": Law(
        lambda rng, n: rng.choice(_GRID, p=_SHARES, size=n),
        lambda x: np.cumsum(_SHARES)[np.round(10 * x).astype(int)],
        lambda n: np.diff(np.append(0, np.cumsum(_SHARES)) ** n[:, None], axis=1) @ _GRID,
        lambda n: _GRID[np.searchsorted(np.cumsum(_SHARES), 0.5 ** (1 / n))],
    ),
}


@dataclass(frozen=True)
class Coverage:
    """Shares of searches whose bands hold F at every trial, and the mean and the median of the best of every n."""

    distribution: float
    mean: float
    median: float


def band_coverage(law: str, trials: int, searches: int, confidence: float = 0.95) -> Coverage:
    """How often the bands of `searches` searches of so many `trials` hold."""
    truth = LAWS[law]
    budgets = np.arange(1, trials + 1)
    mean, median = truth.mean(budgets), truth.median(budgets)
    lower, upper = distribution_band(trials, confidence)
    rng = np.random.default_rng(trials)
    held = []
    for _ in range(searches):
        scores = np.sort(truth.draw(rng, trials))
        f = truth.distribution(scores)
        just_below = f - _SHARES[np.round(10 * scores).astype(int)] if law == "eleven values" else f
        of_mean, of_median = (
            tuning_curve(scores, "max", (0, 1), confidence),
            tuning_curve(scores, "max", confidence=confidence),
        )
        held.append(
            [
                ((lower <= f) & (just_below <= upper)).all(),
                ((of_mean.lower <= mean) & (mean <= of_mean.upper)).all(),
                ((of_median.lower <= median) & (median <= of_median.upper)).all(),
            ]
        )
    return Coverage(*np.mean(held, axis=0).tolist())


if __name__ == "__main__":
    print("| scores | trials | F | mean of the best | median of the best |\n| :--- | ---: | ---: | ---: | ---: |")
    for name in LAWS:
        for count in (8, 16, 64):
            found = band_coverage(name, count, 10_000)
            print(f"| {name} | {count} | {found.distribution:.3f} | {found.mean:.3f} | {found.median:.3f} |")
