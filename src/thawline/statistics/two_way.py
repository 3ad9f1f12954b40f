"""How far a mean over seeds and images may be off: with other seeds, with other images, and with both.

Scores C of shape (S, n), one for each seed and image, have the mean squares of a two-way table,

    MS_S = n sum_s (C_s. - C)^2 / (S - 1)          between seeds
    MS_I = S sum_i (C_.i - C)^2 / (n - 1)          between images
    MS_E = sum_si (C_si - C_s. - C_.i + C)^2 / ((S - 1)(n - 1))

and the variance of their mean over new seeds and new images is
``v = [max(MS_S - MS_E, 0) + max(MS_I - MS_E, 0) + MS_E] / (S n)``, with Satterthwaite's degrees of freedom. A metric
that is no mean over images, such as a mean IoU, has the same three mean squares by a bootstrap over images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.statistics.intervals import CONFIDENCE, Bounds, Interval, within
from thawline.statistics.proportions import difference_not_ruled_out, wilson
from thawline.statistics.samples import finite

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

FEW_SEEDS = 3
"""Up to so many seeds the two-way variance has too few degrees of freedom to be trusted alone."""


@dataclass(frozen=True)
class TwoWay:
    """The mean over seeds and images, and the variances of it that each of the two brings.

    Attributes:
        mean: over all seeds and images.
        seeds: how many there are.
        images: how many there are.
        of_seeds: MS_S / (S n), the variance of the mean over other seeds on the same images; None: one seed.
        of_images: MS_I / (S n), that over other images with the same trained models.
        of_both: MS_E / (S n), which is part of each of them; None: one seed.
    """

    mean: float
    seeds: int
    images: int
    of_seeds: float | None
    of_images: float
    of_both: float | None

    @property
    def variance(self) -> float:
        """Of the mean over other seeds and other images; of one seed over other images alone."""
        return sum(weight * part for weight, part, _ in self._parts())

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of `variance`."""
        below = sum((weight * part) ** 2 / degrees for weight, part, degrees in self._parts())
        return self.variance**2 / below if below > 0 else float(self.images - 1)

    @property
    def independent(self) -> float:
        """How many independent scores give a mean of the same variance.

        Where all scores are equal the seeds agree on every image: then there are no more cases than images.
        """
        if self.variance <= 0:
            return self.images
        seeds, images = self.seeds - 1, self.images - 1
        of_seeds, of_both = self.of_seeds or 0.0, self.of_both or 0.0
        # The sums of squares are those of the scores around their mean.
        spread = seeds * of_seeds + images * self.of_images + seeds * images * of_both
        return min(spread / self.variance, self.seeds * self.images)

    def interval(
        self,
        confidence: float = CONFIDENCE,
        bounds: Bounds = (None, None),
        *,
        proportion: bool = False,
        difference: bool = False,
    ) -> Interval:
        """The interval of the mean over other seeds and images.

        With three seeds or fewer it is the wider one of this and of the t interval over the seeds.

        Args:
            confidence: its nominal coverage.
            bounds: of the metric, beyond which no mean can lie.
            proportion: whether every score is 0 or 1: then the interval is Wilson's, with as many independent images
                as give the same variance, and stays between 0 and 1.
            difference: whether every score is the difference of two such: then the interval has all differences that
                so many images cannot rule out (see `difference_not_ruled_out`), also where they show none.
        """
        found = self._proportion(confidence) if proportion else self._symmetric(self.variance, self.degrees, confidence)
        if difference:
            quantile = _quantile(self.degrees, confidence)
            low, high = difference_not_ruled_out(self.mean, self.independent, quantile)
            found = min(found[0], low), max(found[1], high)
        if self.of_seeds is not None and self.seeds <= FEW_SEEDS:
            over_seeds = self._symmetric(self.of_seeds, self.seeds - 1, confidence)
            found = max(found, within(over_seeds, bounds) or over_seeds, key=lambda pair: pair[1] - pair[0])
        return within(found, bounds) or found

    def _parts(self) -> list[tuple[int, float, float]]:
        """Mean squares over S n as they enter the variance: factor, value, degrees of freedom."""
        seeds, images = self.seeds - 1, self.images - 1
        if self.of_seeds is None or self.of_both is None:
            return [(1, self.of_images, images)]
        parts: list[tuple[int, float, float]] = []
        if self.of_seeds > self.of_both:
            parts.append((1, self.of_seeds, seeds))
        if self.of_images > self.of_both:
            parts.append((1, self.of_images, images))
        # The error's mean square is in both of the others: it enters once.
        return [*parts, (1 - len(parts), self.of_both, seeds * images)]

    def _symmetric(self, variance: float, degrees: float, confidence: float) -> Interval:
        half = _quantile(degrees, confidence) * math.sqrt(max(variance, 0.0))
        return self.mean - half, self.mean + half

    def _proportion(self, confidence: float) -> Interval:
        return wilson(self.mean, self.independent, _quantile(self.degrees, confidence))


def two_way(scores: ArrayLike) -> TwoWay | None:
    """The two-way table of `scores`, shape (S, n); None below two images.

    Of paired differences take the differences as scores.
    """
    table = finite(scores)
    seeds, images = table.shape
    if images < 2 or not seeds:
        return None
    mean = float(table.mean())
    by_seed, by_image = table.mean(axis=1), table.mean(axis=0)
    between_images = float(((by_image - mean) ** 2).sum()) / (images - 1) / images
    if seeds < 2:
        return TwoWay(mean, seeds, images, None, between_images, None)
    rest = table - by_seed[:, None] - by_image[None] + mean
    between_seeds = float(((by_seed - mean) ** 2).sum()) / (seeds - 1) / seeds
    error = float((rest**2).sum()) / ((seeds - 1) * (images - 1)) / (seeds * images)
    return TwoWay(mean, seeds, images, between_seeds, between_images, error)


def two_way_resampled(values: Sequence[float], resampled: ArrayLike, images: int) -> TwoWay | None:
    """The same of a metric that is no mean over images, by a bootstrap over `images` images.

    The variance over resampled images of the mean over seeds stands for MS_I, and what it falls short of the mean
    variance of single seeds shows MS_E: for a mean over images these are the mean squares themselves.

    Args:
        values: the metric of each seed, (S,).
        resampled: the metric of each seed on resampled images, (S, B); every seed sees the same images in resample b.
            What is not finite, because a resample shows nothing to measure, is left out for all seeds.
        images: how many there are.
    """
    of_seeds = finite(values)
    table: NDArray[np.float64] = np.asarray(resampled, dtype=np.float64)
    table = table[:, np.isfinite(table).all(axis=0)]
    seeds = len(of_seeds)
    if images < 2 or not seeds or table.shape[1] < 2:
        return None
    # A bootstrap's variance of a mean has n in the denominator, not n - 1.
    scale = images / (images - 1)
    together = float(table.mean(axis=0).var(ddof=1)) * scale
    mean = float(of_seeds.mean())
    if seeds < 2:
        return TwoWay(mean, seeds, images, None, together, None)
    apart = float(table.var(axis=1, ddof=1).mean()) * scale
    error = max(apart - together, 0.0) / (seeds - 1)
    return TwoWay(mean, seeds, images, float(of_seeds.var(ddof=1)) / seeds, together, error)


def _quantile(degrees: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))
