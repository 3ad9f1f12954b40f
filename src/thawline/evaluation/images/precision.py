"""Average precision of images that count by weights: ranked findings are accumulated again for every resample.

Precision changes its height, and recall its place, only where something right is found. So of a ranking only these
places are looked at, with the weights of all that stand before them summed up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.evaluation.images.counts import quotient

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RECALLS = np.linspace(0.0, 1.0, 101)
# Resamples that are accumulated at once: so many numbers of 8 bytes.
_MOST_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Ranking:
    """What was found of one class, the surest first.

    Attributes:
        image: of each finding, (D,).
        right: whether it is, (D, T) for T ways of telling that, such as IoU thresholds.
        left_out: whether it counts neither as right nor as wrong, (D, T).
        there: how many there are to find in each image, (n,).
    """

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    left_out: NDArray[np.bool_]
    there: NDArray[np.int64]


def interpolated_precision(ranking: Ranking, weights: NDArray[np.float32], ways: slice) -> NDArray[np.float64]:
    """COCO's average precision, (B,): the mean over 101 recalls of the best precision from there on.

    NaN where the images of a resample show nothing to find.

    Args:
        ranking: of one class.
        weights: how often each image counts, (B, n).
        ways: which ways of telling what is right are averaged over.
    """
    wanted = range(ranking.right.shape[1])[ways]
    block = max(1, _MOST_NUMBERS // max(1, len(ranking.image)))
    found = []
    for first in range(0, len(weights), block):
        some = weights[first : first + block]
        there = some.astype(np.float64) @ ranking.there
        # Whole numbers below 2^24, which float32 holds exactly.
        of_findings = some[:, ranking.image]
        so_far = np.cumsum(of_findings, axis=1)
        found.append(np.mean([_interpolated(ranking, way, of_findings, so_far, there) for way in wanted], axis=0))
    return np.concatenate(found)


def _interpolated(
    ranking: Ranking,
    way: int,
    of_findings: NDArray[np.float32],
    so_far: NDArray[np.float32],
    there: NDArray[np.float64],
) -> NDArray[np.float64]:
    places = np.flatnonzero(ranking.right[:, way])
    if not len(places):
        return np.where(there > 0, 0.0, np.nan)
    counted = so_far[:, places].astype(np.float64)
    uncounted = np.flatnonzero(ranking.left_out[:, way])
    if len(uncounted):
        less = np.cumsum(of_findings[:, uncounted], axis=1)
        before = np.searchsorted(uncounted, places)
        counted -= np.concatenate([np.zeros((len(less), 1), dtype=np.float32), less], axis=1)[:, before]
    rights = np.cumsum(of_findings[:, places], axis=1, dtype=np.float64)
    precision = np.divide(rights, counted, out=np.zeros_like(rights), where=counted > 0)
    # From each place on the best precision; a place whose image is not in the resample has its neighbour's.
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = rights / np.maximum(there, 1)[:, None]
    gained = np.diff(np.searchsorted(_RECALLS, recall, side="right"), axis=1, prepend=0)
    return np.where(there > 0, np.einsum("bt,bt->b", best, gained) / len(_RECALLS), np.nan)


def stepwise_precision(scores: NDArray[Any], truth: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """The average precision of one class over images, (B,): ``sum (R_n - R_{n-1}) P_n`` over distinct scores.

    NaN where no image of a resample shows the class.

    Args:
        scores: of each image, (n,).
        truth: whether it shows the class, (n,).
        weights: how often each image counts, (B, n).
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # Images with equal scores are taken together.
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    counted = weights[:, order].astype(np.float64)
    taken = np.cumsum(counted, axis=1)[:, last]
    right = np.cumsum(counted * truth[order].astype(bool), axis=1)[:, last]
    precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
    gained = np.diff(right, axis=1, prepend=0.0)
    shown = right[:, -1]
    return quotient((gained * precision).sum(axis=1), shown)
