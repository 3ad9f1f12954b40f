"""What a metric of a run is on each test image, or on resampled ones, from what the run keeps of each image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.evaluation.images.counts import counts_of_classes, of_counts, quotient
from thawline.evaluation.images.matching import box_rankings, mask_rankings
from thawline.evaluation.images.precision import interpolated_precision, stepwise_precision
from thawline.evaluation.images.weights import RESAMPLES, image_weights
from thawline.records.names import IMAGE_SCORE_ARRAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = Mapping[str, "NDArray[Any]"]
_TOP_K = re.compile(r"top([1-9][0-9]*)")
_LEAST_PROBABILITY = np.finfo(np.float32).tiny
_PRECISIONS = {"map": slice(None), "map50": slice(0, 1), "map75": slice(5, 6)}
_OF_MASKS = "mask_"
_Resampled = Callable[["NDArray[np.float32]"], "NDArray[np.float64] | None"]


@dataclass(frozen=True)
class ImageValues:
    """One metric of one model over its test images; either `scores` or `resampled` is there.

    Attributes:
        value: the metric itself.
        index: the images' places in the data set, (n,), ascending.
        scores: the score of each image, (n,), where the metric is their mean.
        resampled: the metric on resampled images, (B,), where it is not; see `image_weights`.
    """

    value: float
    index: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    resampled: NDArray[np.float64] | None = None

    @property
    def is_proportion(self) -> bool:
        """Whether every score is 0 or 1."""
        return self.scores is not None and bool(np.isin(self.scores, (0.0, 1.0)).all())


def image_values(arrays: Arrays, metric: str, resamples: int = RESAMPLES) -> ImageValues | None:
    """A metric over the images of a run's predictions file; None: what is kept does not give it.

    Args:
        arrays: of the file, with ``index`` (n,).
        metric: its name, as records have it.
        resamples: how many resamples to take where the metric is no mean.
    """
    order = np.argsort(arrays["index"], kind="stable")
    index = np.asarray(arrays["index"])[order]
    scores = _scores(arrays, metric)
    if scores is not None:
        return ImageValues(float(scores.mean()), index, scores=scores[order])
    resampled = _resampled(arrays, metric)
    if resampled is None:
        return None
    weights = image_weights(len(index), resamples)
    # Image i of a resample is the i-th by index, wherever it stands in the file.
    in_file = np.empty_like(weights)
    in_file[:, order] = weights
    whole = resampled(np.ones((1, len(index)), dtype=np.float32))
    every = resampled(in_file)
    if whole is None or every is None:
        return None
    return ImageValues(float(whole[0]), index, resampled=every)


def _scores(arrays: Arrays, metric: str) -> NDArray[np.float64] | None:
    """The scores (n,) of which the metric is the mean."""
    if {"label", "probabilities"} <= arrays.keys() and arrays["probabilities"].ndim == 2:
        return _of_classes(arrays["label"].astype(np.int64), arrays["probabilities"], metric)
    if metric == "mae" and IMAGE_SCORE_ARRAY in arrays:
        scores: NDArray[np.float64] = -arrays[IMAGE_SCORE_ARRAY].astype(np.float64)
        return scores
    return None


def _of_classes(label: NDArray[np.int64], probabilities: NDArray[Any], metric: str) -> NDArray[np.float64] | None:
    of_label = probabilities[np.arange(len(label)), label]
    top_k = _TOP_K.fullmatch(metric)
    scores: NDArray[Any]
    if metric == "top1":
        scores = probabilities.argmax(axis=1) == label
    elif metric == "loss":
        scores = -np.log(np.maximum(of_label.astype(np.float64), _LEAST_PROBABILITY))
    elif top_k is not None:
        scores = (probabilities > of_label[:, None]).sum(axis=1) < int(top_k[1])
    else:
        return None
    return scores.astype(np.float64)


def _resampled(arrays: Arrays, metric: str) -> _Resampled | None:
    """What computes the metric of weighted images, (B, n) -> (B,)."""
    counts = _counts(arrays)
    if counts is not None and of_counts(metric, counts, np.ones((1, len(arrays["index"])), np.float32)) is not None:
        return lambda weights: of_counts(metric, counts, weights)
    if metric == "rmse" and IMAGE_SCORE_ARRAY in arrays:
        squares = np.asarray(arrays[IMAGE_SCORE_ARRAY], dtype=np.float64) ** 2
        return lambda weights: np.sqrt(weights @ squares / weights.sum(axis=1))
    if metric == "map" and {"logits", "target"} <= arrays.keys():
        return lambda weights: _mean_over_classes(
            [
                stepwise_precision(logits, truth, weights)
                for logits, truth in zip(arrays["logits"].T, arrays["target"].T, strict=True)
            ]
        )
    ways = _PRECISIONS.get(metric.removeprefix(_OF_MASKS))
    if ways is None or ("masks" if metric.startswith(_OF_MASKS) else "boxes") not in arrays:
        return None
    # Matching does not depend on how often an image counts.
    rankings = mask_rankings(arrays) if metric.startswith(_OF_MASKS) else box_rankings(arrays)
    return lambda weights: _mean_over_classes([interpolated_precision(one, weights, ways) for one in rankings])


def _counts(arrays: Arrays) -> Arrays | None:
    """Counts by image and class, (n, C): of pixels, or of classes shown and said."""
    if {"intersection", "predicted", "truth"} <= arrays.keys():
        return arrays
    if {"label", "probabilities"} <= arrays.keys():
        classes = np.arange(arrays["probabilities"].shape[1])
        said = arrays["probabilities"].argmax(axis=1)
        return counts_of_classes(arrays["label"][:, None] == classes, said[:, None] == classes)
    if {"logits", "target"} <= arrays.keys():
        return counts_of_classes(arrays["target"], arrays["logits"] > 0)
    return None


def _mean_over_classes(values: list[NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """The mean of what each class has, (B,); NaN where none has a value."""
    if not values:
        return None
    table = np.stack(values)
    there = np.isfinite(table)
    total, count = np.where(there, table, 0.0).sum(axis=0), there.sum(axis=0)
    return quotient(total, count)
