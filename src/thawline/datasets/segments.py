"""The outlines of COCO: polygons and run lengths, decoded to the same pixels as pycocotools does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.datasets.targets import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCALE = 5
"""Outlines are followed on a grid that is so many times finer than the pixels."""


@dataclass(frozen=True, eq=False)
class Segments:
    """The masks of the objects of one image, as COCO writes them (`thawline.datasets.targets.InstanceMasks`).

    Attributes:
        encoded: For each object polygons, [[x, y, x, y, ...], ...], or run lengths, {"size": [h, w], "counts": ...}.
    """

    encoded: tuple[Any, ...]

    @cached_property
    def sha256(self) -> str:
        """Of the outlines as they are written."""
        return hashlib.sha256(json.dumps(self.encoded, sort_keys=True).encode()).hexdigest()

    def read(self, size: Size) -> NDArray[np.uint8]:
        """(n, H, W) zeros and ones."""
        masks = np.zeros((len(self.encoded), *size), dtype=np.uint8)
        for mask, encoded in zip(masks, self.encoded, strict=True):
            mask[:] = decoded(encoded, size)
        return masks


def decoded(encoded: Any, size: Size) -> NDArray[np.uint8]:
    """(H, W) zeros and ones of one object; its polygons are laid over one another."""
    if isinstance(encoded, Mapping):
        return _from_runs(_counts(encoded["counts"]), size)
    mask = np.zeros(size, dtype=np.uint8)
    for polygon in encoded:
        mask |= _from_polygon(np.asarray(polygon, dtype=np.float64).reshape(-1, 2), size)
    return mask


def problem(encoded: Any, size: Size) -> str | None:
    """What is wrong with an outline in an image of this size; None: nothing."""
    match encoded:
        case {"counts": [*_] | str() as counts, "size": [int(height), int(width)]}:
            if (height, width) != size:
                return f"run lengths of {width} x {height} pixels for an image of {size[1]} x {size[0]}"
            try:
                runs = _counts(counts)
            except (IndexError, TypeError, ValueError):
                return "run lengths that cannot be decoded"
            if min(runs, default=-1) < 0 or sum(runs) != height * width:
                return f"run lengths that add up to {sum(runs)} and not to {height} x {width}"
            return None
        case [_, *_]:
            return next((said for polygon in encoded if (said := _polygon_problem(polygon))), None)
    return "no polygons and no run lengths"


def _polygon_problem(polygon: Any) -> str | None:
    if not isinstance(polygon, Sequence) or len(polygon) < 6 or len(polygon) % 2:
        return "a polygon that is no list of three or more points x, y"
    if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in polygon):
        return "a polygon with a coordinate that is no number"
    return None


def _counts(counts: str | Sequence[int]) -> list[int]:
    """Run lengths, of zeros first; as text they are differences in groups of five bits, as pycocotools packs them."""
    if not isinstance(counts, str):
        return [int(count) for count in counts]
    runs: list[int] = []
    place = 0
    while place < len(counts):
        value = shift = 0
        more = True
        while more:
            bits = ord(counts[place]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            place += 1
            shift += 5
            if not more and bits & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def _from_runs(runs: Sequence[int], size: Size) -> NDArray[np.uint8]:
    height, width = size
    values = np.arange(len(runs)) % 2
    flat = np.repeat(values, runs).astype(np.uint8)
    return flat.reshape(width, height).T


def _from_polygon(points: NDArray[np.float64], size: Size) -> NDArray[np.uint8]:
    """The pixels within an outline (n, 2) of x, y: `rleFrPoly` of pycocotools, whose pixels the metrics count."""
    height, width = size
    along_x, along_y = _outline(points)
    steps = np.flatnonzero(along_x[1:] != along_x[:-1])
    left = np.where(along_x[steps + 1] < along_x[steps], along_x[steps + 1], along_x[steps + 1] - 1)
    columns = (left + 0.5) / _SCALE - 0.5
    rows = (np.minimum(along_y[steps], along_y[steps + 1]) + 0.5) / _SCALE - 0.5
    inside = (np.floor(columns) == columns) & (columns >= 0) & (columns <= width - 1)
    rows = np.ceil(np.clip(rows[inside], 0, height))
    starts = (columns[inside].astype(np.int64) * height + rows.astype(np.int64)).ravel()
    crossings = np.bincount(starts, minlength=height * width + 1)[: height * width]
    return (np.cumsum(crossings) % 2).astype(np.uint8).reshape(width, height).T


def _outline(points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """X and y of all points of the finer grid along the closed outline."""
    # Towards zero, as C rounds.
    corners = np.trunc(_SCALE * points + 0.5).astype(np.int64)
    xs, ys = [], []
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        wide, high = abs(x1 - x0), abs(y1 - y0)
        flat = wide >= high
        flip = x0 > x1 if flat else y0 > y1
        (xs0, ys0), (xs1, ys1) = ((x1, y1), (x0, y0)) if flip else ((x0, y0), (x1, y1))
        steps = np.arange(max(wide, high) + 1)
        steps = steps[::-1] if flip else steps
        if flat:
            slope = (ys1 - ys0) / wide if wide else 0.0
            xs.append(xs0 + steps)
            ys.append(np.trunc(ys0 + slope * steps + 0.5).astype(np.int64))
        else:
            xs.append(np.trunc(xs0 + (xs1 - xs0) / high * steps + 0.5).astype(np.int64))
            ys.append(ys0 + steps)
    return np.concatenate(xs), np.concatenate(ys)
