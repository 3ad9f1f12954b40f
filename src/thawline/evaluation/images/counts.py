"""Metrics that are ratios of counts summed over images: IoU, dice, F1, accuracy by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Counts = Mapping[str, "NDArray[Any]"]


def of_counts(metric: str, counts: Counts, weights: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """A metric of images that count by `weights`, (B, n) -> (B,); None: `counts` do not give it.

    Args:
        metric: its name.
        counts: by class, (n, C): ``intersection`` (predicted and true), ``predicted`` and ``truth``.
        weights: how often each image counts, (B, n).
    """
    shared, said, true = (_summed(counts[name], weights) for name in ("intersection", "predicted", "truth"))
    if metric in ("pixel_accuracy", "micro_accuracy"):
        return quotient(shared.sum(axis=1), true.sum(axis=1))
    if metric == "micro_f1":
        return quotient(2 * shared.sum(axis=1), (said + true).sum(axis=1))
    if metric == "mean_iou":
        return _mean(quotient(shared, said + true - shared))
    if metric in ("dice", "macro_f1"):
        return _mean(quotient(2 * shared, said + true))
    if metric == "macro_accuracy":
        # A class that no image shows but some model says counts as 0.
        return _mean(np.where(said + true > 0, shared / np.maximum(true, 1), np.nan))
    return None


def counts_of_classes(truth: NDArray[Any], said: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The counts of images (n, C) that show, and are said to show, each class or not."""
    shown, predicted = truth.astype(bool), said.astype(bool)
    return {"intersection": shown & predicted, "predicted": predicted, "truth": shown}


def _summed(counts: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    return weights.astype(np.float64) @ counts.astype(np.float64)


def quotient(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """One over the other, of any shape; NaN where there is nothing to divide by."""
    found: NDArray[np.float64] = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below > 0)
    return found


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the classes that have a value, (B, C) -> (B,); NaN where none has one."""
    there = np.isfinite(values)
    return quotient(np.where(there, values, 0.0).sum(axis=1), there.sum(axis=1).astype(np.float64))
