"""Strategies over several data sets, none of whose scores are averaged as they are: their scales differ.

Three ways around that: differences within each data set (`compare_over_data_sets`, a cell of the matrix of Ismail-Fawaz
et al. 2023), ranks within each data set (`friedman`), and scores normalised within each data set, whose interquartile
mean and distribution are taken over all runs (Agarwal et al. 2021). Scores of one data set are an array (strategies,
seeds) whose seeds are paired over the strategies; data sets may have different numbers of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import generator
from thawline.statistics.intervals import CONFIDENCE, Interval
from thawline.statistics.paired_tests import wilcoxon
from thawline.statistics.samples import Mode, finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 2000
# Accuracies are ratios: scores that are equal in truth may differ in the last bits.
_DIGITS = 12


@dataclass(frozen=True)
class PairOverDataSets:
    """The first of two strategies against the second over data sets.

    `difference` is the mean over the data sets of first - second, or of the relative difference (the geometric mean of
    first / second, less 1); None where that needs positive scores and there are others. `wins`, `ties` and `losses` of
    the first count data sets, by the direction of the metric. `p` is Wilcoxon's two-sided exact p, zeros left out; it
    is not corrected for other pairs, so that no third strategy changes it.
    """

    difference: float | None
    wins: int
    ties: int
    losses: int
    p: float


def compare_over_data_sets(
    first: ArrayLike, second: ArrayLike, mode: Mode = "max", *, relative: bool = False
) -> PairOverDataSets:
    """Compare two strategies by their mean scores on each data set, both of shape (data sets,).

    Args:
        first: scores of the first strategy.
        second: those of the second, on the same data sets.
        mode: whether more or less is better.
        relative: compare by ratios, as metrics without a common scale (a loss, an error in the targets' own unit) need.
    """
    a, b = finite(first), finite(second)
    differences = np.round(a - b, _DIGITS)
    counts = _counts(differences, mode)
    if not relative:
        return PairOverDataSets(float((a - b).mean()), *counts, wilcoxon(a - b).p)
    if (a <= 0).any() or (b <= 0).any():
        # Signs need no scale; sizes on different scales cannot be ranked.
        return PairOverDataSets(None, *counts, wilcoxon(np.sign(differences)).p)
    ratios = np.log(a) - np.log(b)
    return PairOverDataSets(float(np.expm1(ratios.mean())), *counts, wilcoxon(ratios).p)


def tally(scores: ArrayLike, place: int, mode: Mode = "max") -> tuple[int, int, int]:
    """Wins, ties and losses of the strategy at `place` against every other on every data set.

    Args:
        scores: mean scores, of shape (data sets, strategies).
        place: the strategy's column.
        mode: whether more or less is better.
    """
    means = np.asarray(scores, dtype=np.float64)
    return _counts(np.round(means[:, [place]] - np.delete(means, place, axis=1), _DIGITS), mode)


def _counts(differences: NDArray[np.float64], mode: Mode) -> tuple[int, int, int]:
    better = differences if mode == "max" else -differences
    return int((better > 0).sum()), int((better == 0).sum()), int((better < 0).sum())


def normalised(scores: Sequence[ArrayLike], mode: Mode = "max") -> list[NDArray[np.float64] | None]:
    """The scores of each data set on a scale of its own: 0 is the mean of its worst strategy, 1 that of its best.

    Each entry has shape (strategies, seeds); a run can lie outside 0 and 1. None for a data set whose strategies all
    have the same mean: it tells nothing apart.
    """
    found: list[NDArray[np.float64] | None] = []
    for one in scores:
        values = finite(one) if mode == "max" else -finite(one)
        means = np.round(values.mean(axis=1), _DIGITS)
        worst, best = means.min(), means.max()
        found.append((values - worst) / (best - worst) if best > worst else None)
    return found


def interquartile_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the middle half along the last axis: floor(N/4) values are cut at each end (Agarwal et al. 2021)."""
    ordered = np.sort(values, axis=-1)
    cut = values.shape[-1] // 4
    middle: NDArray[np.float64] = ordered[..., cut : values.shape[-1] - cut]
    return np.asarray(middle.mean(axis=-1))


@dataclass(frozen=True)
class Estimate:
    """A value and its percentile interval; None where no data set has two seeds to draw from."""

    value: float
    interval: Interval | None


def iqm_over_data_sets(scores: Sequence[NDArray[np.float64]]) -> list[Estimate]:
    """The interquartile mean of each strategy over all runs of all data sets, with its stratified bootstrap interval.

    `scores` has a (normalised) array (strategies, seeds) for each data set. Every run counts alike, so a data set with
    more seeds counts for more.
    """
    values = interquartile_means(np.concatenate(scores, axis=1))
    resampled = stratified_bootstrap(scores, interquartile_means)
    if resampled is None:
        return [Estimate(float(value), None) for value in values]
    low, high = _quantiles(resampled)
    return [Estimate(float(v), (float(a), float(b))) for v, a, b in zip(values, low, high, strict=True)]


@dataclass(frozen=True)
class Profiles:
    """Performance profiles: for each strategy, the share of runs whose score is above each of `thresholds`.

    `shares` has shape (strategies, thresholds); `low` and `high` are its pointwise 95 % band, None without two seeds.
    """

    thresholds: NDArray[np.float64]
    shares: NDArray[np.float64]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None


def performance_profiles(scores: Sequence[NDArray[np.float64]], thresholds: ArrayLike) -> Profiles:
    """The distribution of each strategy's scores over all data sets, each of which counts alike (Agarwal et al. 2021).

    `scores` has a (normalised) array (strategies, seeds) for each data set.
    """
    above = np.asarray(thresholds, dtype=np.float64)
    sizes = [one.shape[1] for one in scores]
    weights = np.concatenate([np.full(size, 1 / size / len(sizes)) for size in sizes])

    def shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([(values > threshold) @ weights for threshold in above], axis=-1)

    resampled = stratified_bootstrap(scores, shares)
    low, high = (None, None) if resampled is None else _quantiles(resampled)
    return Profiles(above, shares(np.concatenate(scores, axis=1)), low, high)


def stratified_bootstrap(
    scores: Sequence[NDArray[np.float64]],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    n_resamples: int = _RESAMPLES,
) -> NDArray[np.float64] | None:
    """The statistic of resampled runs, shape (resamples, strategies, ...); None where every data set has one seed.

    Seeds are drawn with replacement within each data set, the same for all strategies, for they are paired. `statistic`
    maps runs of shape (resamples, N), those of all data sets in their order, to (resamples, ...).
    """
    sizes = [one.shape[1] for one in scores]
    if max(sizes) < 2:
        return None
    stream = generator("stratified_bootstrap", *sizes, n_resamples)
    drawn = [stream.integers(0, size, size=(n_resamples, size)) for size in sizes]
    strategies = range(scores[0].shape[0])
    return np.stack(
        [
            statistic(np.concatenate([one[place][rows] for one, rows in zip(scores, drawn, strict=True)], axis=1))
            for place in strategies
        ],
        axis=1,
    )


def _quantiles(resampled: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = np.quantile(resampled, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
    return low, high
