"""Which found boxes are right at which IoU: COCO's matching, image by image and class by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.evaluation.images.counts import quotient
from thawline.evaluation.images.precision import Ranking

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = Mapping[str, "NDArray[Any]"]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds, from which on a box is right."""
_MOST_FOUND = 100
"""Of a class in an image so many boxes count, the surest ones."""


def box_rankings(arrays: Arrays) -> list[Ranking]:
    """The found boxes of each class that has an object, ranked and matched at each of `THRESHOLDS`.

    Args:
        arrays: ``boxes`` (D, 4), ``scores``, ``labels``, ``true_boxes``, ``true_labels``, ``true_crowd``, each with
            how many rows are of each image under ``<name>_rows``, as a run on boxes keeps them.
    """
    found = _by_image(arrays, "labels", ("boxes", "scores", "labels"))
    truth = _by_image(arrays, "true_labels", ("true_boxes", "true_labels", "true_crowd"))
    real = arrays["true_labels"][~arrays["true_crowd"].astype(bool)]
    return [_ranking(int(label), found, truth) for label in np.unique(real)]


def matched(overlap: NDArray[np.float64], crowd: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which findings are right, and which are left out since they lie in a crowd: both (d, T).

    Each finding, the surest first, takes the object that it overlaps most of those that are not taken; only one that
    gets none may lie in a crowd.

    Args:
        overlap: IoU (d, m) of findings, the surest first, and objects; of a crowd the part of the finding inside it.
        crowd: which objects are crowds, (m,).
    """
    right = np.zeros((len(overlap), len(THRESHOLDS)), dtype=bool)
    left_out = np.zeros_like(right)
    single, many = overlap[:, ~crowd], overlap[:, crowd]
    if many.shape[1]:
        left_out = many.max(axis=1)[:, None] >= THRESHOLDS[None]
    taken = np.zeros((len(THRESHOLDS), single.shape[1]), dtype=bool)
    for place in np.flatnonzero(single.max(axis=1, initial=0.0) >= THRESHOLDS[0]):
        open_to = np.where(taken, -1.0, single[place])
        # Of equal overlaps COCO takes the last.
        best = open_to.shape[1] - 1 - open_to[:, ::-1].argmax(axis=1)
        hits = open_to[np.arange(len(THRESHOLDS)), best] >= THRESHOLDS
        right[place] = hits
        taken[hits, best[hits]] = True
    return right, left_out & ~right


def box_overlaps(found: NDArray[Any], truth: NDArray[Any], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU (d, m) of boxes (d, 4) and (m, 4) as xmin, ymin, xmax, ymax; of a crowd the part of the found box in it."""
    a, b = found.astype(np.float64), truth.astype(np.float64)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.maximum(sides, 0.0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    union = np.where(crowd.astype(bool)[None], areas[0][:, None], areas[0][:, None] + areas[1][None] - shared)
    return np.nan_to_num(quotient(shared, union))


def _ranking(label: int, found: list[dict[str, NDArray[Any]]], truth: list[dict[str, NDArray[Any]]]) -> Ranking:
    scores, images, rights, outs, there = [], [], [], [], []
    for image, (mine, theirs) in enumerate(zip(found, truth, strict=True)):
        of_class, real = mine["labels"] == label, theirs["true_labels"] == label
        order = np.argsort(-mine["scores"][of_class], kind="stable")[:_MOST_FOUND]
        crowd = theirs["true_crowd"][real].astype(bool)
        boxes = mine["boxes"][of_class][order]
        right, left_out = matched(box_overlaps(boxes, theirs["true_boxes"][real], crowd), crowd)
        scores.append(mine["scores"][of_class][order])
        images.append(np.full(len(order), image))
        rights.append(right)
        outs.append(left_out)
        there.append(int((~crowd).sum()))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return Ranking(
        np.concatenate(images)[order],
        np.concatenate(rights)[order],
        np.concatenate(outs)[order],
        np.array(there, dtype=np.int64),
    )


def _by_image(arrays: Arrays, counted: str, names: tuple[str, ...]) -> list[dict[str, NDArray[Any]]]:
    ends = np.cumsum(arrays[f"{counted}_rows"])[:-1]
    parts = {name: np.split(arrays[name], ends) for name in names}
    images = len(arrays[f"{counted}_rows"])
    return [{name: parts[name][image] for name in names} for image in range(images)]
