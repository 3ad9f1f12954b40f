"""What the best of n trials scores: tuning curves with exact simultaneous bands, from one random search.

The trials must be independent draws, as those of random search are; those of a model-based sampler are not. Then the
best of n has the distribution function F^n, where F is that of one trial, and what holds for all of F holds for F^n
for every n at once (Lourie, Cho & He 2024, "Show Your Work with Confidence").
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from thawline.statistics.intervals import CONFIDENCE, Bounds
from thawline.statistics.samples import Mode, finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

Quantity = Literal["mean", "median"]

# Means of the same scores in another order differ in their last bits.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class TuningCurve:
    """The best of n trials for n = 1..N, and the band that holds for all n at once; arrays of shape (N,).

    `quantity` says what of the best of n this is: its mean, estimated without bias, where the metric has both bounds;
    its median elsewhere, for no band of a mean is finite there.
    """

    best: Floats
    lower: Floats
    upper: Floats
    quantity: Quantity
    mode: Mode

    @property
    def trials(self) -> int:
        """N, the number of trials that the curve was made from."""
        return self.best.size

    @property
    def gains(self) -> Floats:
        """`best` where larger is better: negated for a metric of which less is."""
        return self.best if self.mode == "max" else -self.best


def tuning_curve(
    scores: ArrayLike, mode: Mode = "max", bounds: Bounds = (None, None), confidence: float = CONFIDENCE
) -> TuningCurve:
    """The tuning curve of N independent trials with the validation `scores`, shape (N,).

    A trial that diverged (its score is not finite) was paid for, and is worth the worst that the metric can be. With
    probability `confidence` the band holds the true curve at every n: exactly this where no two trials can tie, at
    least this where they can.

    Raises:
        ValueError: there is no trial.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"a tuning curve needs one score per trial, not an array of shape {values.shape}")
    # The smallest value is the largest one of the negated values.
    sign = 1.0 if mode == "max" else -1.0
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    worst, most = (low, high) if mode == "max" else (-high, -low)
    ordered = np.sort(np.where(np.isfinite(values), sign * values, worst))
    n = ordered.size
    at_least, at_most = distribution_band(n, confidence)
    # The larger F is, the smaller the scores are: the band's upper side of F is the lower side of the curve.
    low_steps = (np.append(worst, ordered), np.append(at_most, 1.0))
    high_steps = (np.append(ordered, most), np.append(at_least, 1.0))
    if math.isfinite(worst) and math.isfinite(most):
        quantity: Quantity = "mean"
        best, lower, upper = expected_best(ordered), _mean_of_best(*low_steps, n), _mean_of_best(*high_steps, n)
    else:
        quantity = "median"
        best = _median_of_best(ordered, np.arange(1, n + 1) / n, n)
        lower, upper = _median_of_best(*low_steps, n), _median_of_best(*high_steps, n)
    if mode == "min":
        lower, upper = upper, lower
    return TuningCurve(sign * best, sign * lower, sign * upper, quantity, mode)


def expected_best(scores: ArrayLike) -> Floats:
    """The mean of the largest of n of the N `scores` over all choices of n of them, for n = 1..N: shape (N,).

    The i-th smallest is the largest of n in C(i-1, n-1) of the C(N, n) choices. Without bias for the expected largest
    of n independent draws (Tang et al. 2020; resampling *with* replacement, Dodge et al. 2019, is biased downwards).
    """
    ordered = np.sort(finite(scores))
    size = ordered.size
    budgets = np.arange(1, size + 1)
    share = budgets / size
    total = share * ordered[-1]
    for i in range(size - 1, 0, -1):
        share = share * np.maximum(i + 1 - budgets, 0) / i
        total = total + share * ordered[i - 1]
    return np.asarray(total, dtype=np.float64)


def distribution_band(n: int, confidence: float = CONFIDENCE) -> tuple[Floats, Floats]:
    """An exact band of the distribution function F of which n independent draws are known.

    Returns lower and upper bounds, both of shape (n,). With probability `confidence`, for every i at once, F at the
    i-th smallest draw is at least the lower one, and just below the draw at most the upper one. F at the i-th of n
    draws has the distribution beta(i, n + 1 - i); the bounds are its quantiles at one tail probability for all i, the
    largest at which they hold together (Aldor-Noiman et al. 2013). They are close to F at its ends, where the best
    trials lie; the band of Dvoretzky, Kiefer and Wolfowitz is as wide there as in the middle.
    """
    return _beta_bounds(n, _tail_probability(n, confidence))


@functools.lru_cache(maxsize=64)
def _tail_probability(n: int, confidence: float) -> float:
    """The tail probability of each side of each bound at which all of them hold together with `confidence`."""
    from scipy.optimize import brentq

    def excess(logarithm: float) -> float:
        return holding_together(*_beta_bounds(n, math.exp(logarithm))) - confidence

    # One bound alone holds with 1 - 2 tails, and all n together with at least 1 - 2n tails.
    miss = 1 - confidence
    root: float = brentq(excess, math.log(miss / (4 * n)), math.log(miss), xtol=1e-12)
    return math.exp(root)


def _beta_bounds(n: int, tail: float) -> tuple[Floats, Floats]:
    from scipy.special import betaincinv

    i = np.arange(1, n + 1)
    lower = np.asarray(betaincinv(i, n + 1 - i, tail), dtype=np.float64)
    # The upper bounds mirror the lower ones.
    return lower, 1 - lower[::-1]


def holding_together(lower: Floats, upper: Floats) -> float:
    """P(lower_i <= U_(i) <= upper_i for every i) of the order statistics of n uniform draws; bounds ascend, shape (n,).

    The draws up to a time t in [0, 1] are counted by a Poisson process of rate n that has n points in all (Moscovich
    & Nadler 2017). At an upper bound the count must have reached i, at a lower bound it must still be below i.
    """
    from scipy.special import gammaln

    n = lower.size
    log_factorials = gammaln(np.arange(1, n + 2))
    fewest, now, chances = 0, 0.0, np.ones(1)
    for time in np.unique(np.concatenate([lower, upper, [1.0]])):
        # The counts that no bound forbids at this time; `chances` are those of the counts from `fewest` on.
        least, most = np.searchsorted(upper, time, side="right"), np.searchsorted(lower, time, side="left")
        if least > most:
            return 0.0
        if time > now:
            mean = n * (time - now)
            more = np.arange(most - fewest + 1)
            arrivals = np.exp(more * math.log(mean) - mean - log_factorials[: more.size])
            chances = np.convolve(chances, arrivals)
        chances = chances[least - fewest : most - fewest + 1]
        fewest, now = int(least), float(time)
    return float(chances[-1] / math.exp(n * math.log(n) - n - log_factorials[n]))


def _mean_of_best(points: Floats, distribution: Floats, most: int) -> Floats:
    """The mean of the best of 1..most draws from `points`, ascending, where F at and above each is `distribution`."""
    powers = np.append(0.0, distribution) ** np.arange(1, most + 1)[:, None]
    return np.asarray(np.diff(powers, axis=1) @ points, dtype=np.float64)


def _median_of_best(points: Floats, distribution: Floats, most: int) -> Floats:
    """As `_mean_of_best`, the median: the smallest point with F^n of at least a half."""
    return points[np.searchsorted(distribution, 0.5 ** (1 / np.arange(1, most + 1)), side="left")]


@dataclass(frozen=True)
class Stretch:
    """Budgets `first` to `last`, both included, at which curve `leader` is the best; `apart` where a band says so."""

    first: int
    last: int
    leader: int
    apart: bool


def leaders(curves: Sequence[TuningCurve]) -> list[Stretch]:
    """Which of several curves leads at each budget that all of them know, in stretches of budgets.

    A leader is replaced only by one that is better by more than rounding. It is told apart from the others where its
    band lies beyond all of theirs: bands of confidence 1 - alpha/(number of curves) make that hold at every budget and
    for every curve at once.
    """
    sign = 1.0 if curves[0].mode == "max" else -1.0
    budgets = min(curve.trials for curve in curves)
    best = np.stack([curve.gains[:budgets] for curve in curves])
    worst_case = np.stack([curve.lower[:budgets] if sign > 0 else -curve.upper[:budgets] for curve in curves])
    best_case = np.stack([curve.upper[:budgets] if sign > 0 else -curve.lower[:budgets] for curve in curves])
    found: list[Stretch] = []
    leader = int(best[:, 0].argmax())
    for place in range(budgets):
        challenger = int(best[:, place].argmax())
        before = float(best[leader, place])
        # A curve of trials of which most diverged is infinitely bad where the metric has no bound.
        if best[challenger, place] > before + (_ROUNDING * abs(before) if math.isfinite(before) else 0.0):
            leader = challenger
        others = np.delete(best_case[:, place], leader)
        apart = bool((worst_case[leader, place] > others).all()) if others.size else False
        if found and (found[-1].leader, found[-1].apart) == (leader, apart):
            found[-1] = Stretch(found[-1].first, place + 1, leader, apart)
        else:
            found.append(Stretch(place + 1, place + 1, leader, apart))
    return found
