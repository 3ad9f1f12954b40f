"""Intervals by resampling: of paired replicates, and of images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import generator
from thawline.statistics.intervals import CONFIDENCE, Interval
from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
_IMAGE_RESAMPLES = 2000


def paired_bootstrap(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    n_resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Percentile interval of statistic(X) - statistic(Y), resampling the replicates of both *jointly*.

    `x` and `y` have shape (n,) and are paired; `statistic` maps (R, n) to (R,), the mean by default. The replicates
    drawn depend on n and n_resamples alone, so all comparisons of a table see the same ones. None below two pairs.
    With few seeds this interval is too short (over 3 seeds it covers 73 % where it says 95): prefer `t_interval`.
    """
    a, b = finite(x), finite(y)
    if a.shape != b.shape:
        raise ValueError(f"paired scores need the same shape, not {a.shape} and {b.shape}")
    if a.size < 2:
        return None
    drawn = _resampled(a.size, n_resamples)
    values = (a - b)[drawn].mean(axis=1) if statistic is None else statistic(a[drawn]) - statistic(b[drawn])
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class ImageDifference:
    """The mean difference of two models' scores over `images` images, its interval, and a two-sided p value."""

    mean: float
    interval: Interval
    p: float
    images: int


def over_images(differences: ArrayLike, confidence: float = CONFIDENCE) -> ImageDifference | None:
    """How far the mean of per-image differences (N,) depends on which images they are; None below two.

    The interval is a percentile bootstrap that resamples images; p is Wilcoxon's signed-rank test, by its normal
    approximation (scipy). Both speak about the models as they are trained, not about other seeds.
    """
    from scipy import stats

    d = finite(differences)
    if d.size < 2:
        return None
    draws = generator("over images", d.size)
    means = [float(d[draws.integers(0, d.size, d.size)].mean()) for _ in range(_IMAGE_RESAMPLES)]
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    rounded = np.round(d, 12)
    p = float(stats.wilcoxon(rounded, method="approx").pvalue) if rounded.any() else 1.0
    return ImageDifference(float(d.mean()), (float(low), float(high)), p, d.size)


@functools.lru_cache(maxsize=8)
def _resampled(n: int, n_resamples: int) -> NDArray[np.int64]:
    return generator("paired_bootstrap", n, n_resamples).integers(0, n, size=(n_resamples, n))
