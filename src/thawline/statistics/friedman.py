"""Strategies ranked over several data sets, and which of them nothing tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.statistics.multiplicity import holm
from thawline.statistics.paired_tests import wilcoxon
from thawline.statistics.samples import Mode, ranks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


# Means of the same numbers in another order differ in their last bits; they share a rank all the same.
_DIGITS = 12


@dataclass(frozen=True)
class Friedman:
    """Friedman's test over data sets: chi-square statistic, its p, and the mean rank (1 = best) of each strategy."""

    statistic: float
    p: float
    mean_ranks: tuple[float, ...]
    data_sets: int


def friedman(scores: ArrayLike, mode: Mode = "max") -> Friedman:
    """Friedman's rank test, corrected for ties, of `scores` of shape (data sets, strategies).

    Raises:
        ValueError: fewer than two data sets or three strategies.
    """
    from scipy.special import chdtrc

    table = np.round(np.asarray(scores, dtype=np.float64), _DIGITS)
    data_sets, strategies = table.shape
    if data_sets < 2 or strategies < 3:
        raise ValueError("Friedman's test needs at least two data sets and three strategies")
    by_rank = np.stack([ranks(-row if mode == "max" else row) for row in table])
    tied = [np.unique(row, return_counts=True)[1] for row in by_rank]
    ties = sum(float((counts**3 - counts).sum()) for counts in tied)
    correction = 1 - ties / (data_sets * strategies * (strategies**2 - 1))
    means = tuple(float(mean) for mean in by_rank.mean(axis=0))
    if correction <= 0:
        return Friedman(0.0, 1.0, means, data_sets)
    raw = 12 / (data_sets * strategies * (strategies + 1)) * float((by_rank.sum(axis=0) ** 2).sum())
    statistic = (raw - 3 * data_sets * (strategies + 1)) / correction
    return Friedman(statistic, float(chdtrc(strategies - 1, statistic)), means, data_sets)


def wilcoxon_holm(scores: ArrayLike) -> NDArray[np.float64]:
    """Holm-corrected p values of Wilcoxon's test between all pairs of strategies over the data sets.

    `scores` has shape (data sets, strategies); the answer is symmetric, shape (strategies, strategies), 1 on the
    diagonal.
    """
    table = np.asarray(scores, dtype=np.float64)
    first, second = np.triu_indices(table.shape[1], k=1)
    adjusted = holm([wilcoxon(table[:, a] - table[:, b]).p for a, b in zip(first, second, strict=True)])
    matrix = np.ones((table.shape[1], table.shape[1]))
    matrix[first, second] = adjusted
    matrix[second, first] = adjusted
    return matrix


def cliques(mean_ranks: Sequence[float], p_values: ArrayLike, alpha: float = 0.05) -> list[tuple[int, ...]]:
    """The bars of a critical-difference diagram: maximal stretches of the ranking with no pair told apart.

    Returns the indices of the strategies of each stretch, best rank first. A strategy that differs from all its
    neighbours is a stretch of its own.
    """
    matrix = np.asarray(p_values, dtype=np.float64)
    order = sorted(range(len(mean_ranks)), key=lambda index: mean_ranks[index])
    found: list[tuple[int, ...]] = []
    reached = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and bool((matrix[order[stop], order[start:stop]] >= alpha).all()):
            stop += 1
        if stop > reached:
            found.append(tuple(order[start:stop]))
            reached = stop
    return found
