"""Which found boxes and masks are right at which IoU: COCO's matching, image by image and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    found, truth = _split(arrays, "boxes", "labels"), _split(arrays, "true_boxes", "true_labels")
    crowds = _split(arrays, "true_crowd", "true_labels")
    return _rankings(arrays, [box_overlaps(*parts) for parts in zip(found, truth, crowds, strict=True)])


def mask_rankings(arrays: Arrays) -> list[Ranking]:
    """The same of masks.

    Args:
        arrays: as a run on instances keeps them: beside what `box_rankings` takes ``masks`` and ``true_masks``, the
            lengths of the runs of all masks, and ``mask_runs`` and ``true_mask_runs``, how many runs each mask has.
    """
    crowds = _split(arrays, "true_crowd", "true_labels")
    found, truth = (
        _masks(arrays, "masks", "mask_runs", "labels"),
        _masks(arrays, "true_masks", "true_mask_runs", "true_labels"),
    )
    return _rankings(arrays, [mask_overlaps(*parts) for parts in zip(found, truth, crowds, strict=True)])


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


def mask_overlaps(
    found: Sequence[NDArray[Any]], truth: Sequence[NDArray[Any]], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """IoU (d, m) of masks of one image, each the lengths of its runs, zeros first; of a crowd the part in it.

    Runs are not decoded: how much of a mask lies before each end of a run of another is read off its cumulated lengths.
    """
    edges = [np.concatenate([[0], np.cumsum(runs)]) for runs in found]
    whose = np.repeat(np.arange(len(found)), [len(runs) // 2 for runs in found])
    starts = np.concatenate([[], *(edge[1:-1:2] for edge in edges)])
    ends = np.concatenate([[], *(edge[2::2] for edge in edges)])
    areas = np.bincount(whose, ends - starts, minlength=len(found))
    overlap = np.zeros((len(found), len(truth)))
    for place, runs in enumerate(truth):
        edge = np.concatenate([[0], np.cumsum(runs)])
        before = np.concatenate([[0], np.cumsum(np.where(np.arange(len(runs)) % 2, runs, 0))])
        inside = np.interp(ends, edge, before) - np.interp(starts, edge, before)
        shared = np.bincount(whose, inside, minlength=len(found))
        union = areas if crowd[place] else areas + before[-1] - shared
        overlap[:, place] = np.nan_to_num(quotient(shared, union))
    return overlap


def _rankings(arrays: Arrays, overlaps: Sequence[NDArray[np.float64]]) -> list[Ranking]:
    """The rankings by class, of the overlaps (d, m) of each image."""
    names = {"scores": "labels", "labels": "labels", "true_labels": "true_labels", "true_crowd": "true_labels"}
    parts = {name: _split(arrays, name, counted) for name, counted in names.items()}
    images = [
        {name: values[image] for name, values in parts.items()} | {"overlap": overlap}
        for image, overlap in enumerate(overlaps)
    ]
    real = arrays["true_labels"][~arrays["true_crowd"].astype(bool)]
    return [_ranking(int(label), images) for label in np.unique(real)]


def _ranking(label: int, images: Sequence[Arrays]) -> Ranking:
    scores, places, rights, outs, there = [], [], [], [], []
    for image, arrays in enumerate(images):
        mine, real = np.flatnonzero(arrays["labels"] == label), arrays["true_labels"] == label
        mine = mine[np.argsort(-arrays["scores"][mine], kind="stable")[:_MOST_FOUND]]
        crowd = arrays["true_crowd"][real].astype(bool)
        right, left_out = matched(arrays["overlap"][mine][:, real], crowd)
        scores.append(arrays["scores"][mine])
        places.append(np.full(len(mine), image))
        rights.append(right)
        outs.append(left_out)
        there.append(int((~crowd).sum()))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return Ranking(
        np.concatenate(places)[order],
        np.concatenate(rights)[order],
        np.concatenate(outs)[order],
        np.array(there, dtype=np.int64),
    )


def _split(arrays: Arrays, name: str, counted: str) -> list[NDArray[Any]]:
    """The rows of each image."""
    return np.split(arrays[name], np.cumsum(arrays[f"{counted}_rows"])[:-1])


def _masks(arrays: Arrays, name: str, runs: str, counted: str) -> list[list[NDArray[Any]]]:
    """For each image the runs of each of its masks."""
    every = np.split(arrays[name], np.cumsum(arrays[runs])[:-1]) if len(arrays[runs]) else []
    ends = np.cumsum(arrays[f"{counted}_rows"])
    return [every[end - count : end] for end, count in zip(ends, arrays[f"{counted}_rows"], strict=True)]
