"""A few numbers in fewer: mean, spread and interval of a cell, its middle half, and how often it wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.statistics.intervals import CONFIDENCE, Bounds, Interval, t_interval, within
from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Summary:
    """One cell of a table: `n` finite values out of `count`, and what they say.

    `sd` has ddof 1; `interval` is the t interval of the mean. Both are None below two values, the mean below one.
    """

    count: int
    n: int
    mean: float | None
    sd: float | None
    interval: Interval | None

    @property
    def diverged(self) -> int:
        """How many values are not finite: the mean is over the others, and has to be labelled so."""
        return self.count - self.n


def summary(
    values: ArrayLike, confidence: float = CONFIDENCE, bounds: Bounds = (None, None), resolution: float = 0.0
) -> Summary:
    """Mean, standard deviation (ddof 1), number and t interval of `values`, shape (N,), over the finite ones.

    `bounds` are those of the values: the interval does not leave them (`within`). `resolution` is that of
    `t_interval`.
    """
    every = np.asarray(values, dtype=np.float64)
    finite = every[np.isfinite(every)]
    mean = float(finite.mean()) if finite.size else None
    sd = float(finite.std(ddof=1)) if finite.size > 1 else None
    return Summary(every.size, finite.size, mean, sd, within(t_interval(finite, confidence, resolution), bounds))


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half of `values`, of any shape: floor(N/4) are cut at each end (Agarwal et al. 2021).

    Below four values nothing is cut and it is the mean.
    """
    ordered = np.sort(finite(values), axis=None)
    if not ordered.size:
        raise ValueError("the interquartile mean of no values")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(a run of X > a run of Y) over all pairs of runs, ties counting half (Agarwal et al. 2021).

    Shapes (N,) and (M,). Over several data sets the value is the mean of this one over the data sets.
    """
    a, b = finite(x), finite(y)
    if not (a.size and b.size):
        raise ValueError("the probability of improvement needs a run on each side")
    difference = a[:, None] - b[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
