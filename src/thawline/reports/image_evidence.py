"""What the runs of a study keep of each test image, as the statistics over seeds and images want it."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from thawline.evaluation.images import RESAMPLES, ImageValues, image_values
from thawline.records.names import PREDICTIONS_FILE
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.rows import Key, Row
from thawline.reports.split_names import TEST
from thawline.statistics import TwoWay, two_way, two_way_resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Predictions of all runs together, as they lie on disk: more would take a reader minutes.
_MOST_BYTES = 2**28
# Resampling takes a second a run where findings are ranked again; a quarter of the resamples gives the same variance to
# a twentieth.
_MOST_RUNS_IN_FULL = 12
_FEWER_RESAMPLES = RESAMPLES // 4
# What is recomputed from the predictions is the metric of the record up to its rounding, or it is another metric.
_TOLERANCE = 1e-4


class ImageEvidence:
    """The metric of a study over the images of its test split, read where it is asked for.

    Runs that keep no predictions, whose predictions do not give the metric, or that were tested on other images have no
    evidence; a row or a pair of rows has some only if all its runs do.
    """

    def __init__(self, runs: Sequence[LoadedRun], split: str, metric: str) -> None:
        self._runs, self._split, self._metric = runs, split, metric
        self._values: dict[str, ImageValues | None] = {}
        self._of_rows: dict[int, TwoWay | None] = {}

    @cached_property
    def is_read(self) -> bool:
        """Whether predictions are read at all: of the test split, and as long as they are not too large."""
        return self._split == TEST and sum(map(_size, self._runs)) <= _MOST_BYTES

    def of(self, row: Row) -> TwoWay | None:
        """The row's mean over its seeds and the images; None where a run that counts has no evidence."""
        # Rows live as long as the study; table, figure and pages ask for the same ones.
        if id(row) not in self._of_rows:
            self._of_rows[id(row)] = self._table(self._found(row, self._finite(row)))
        return self._of_rows[id(row)]

    def of_difference(self, row: Row, other: Row) -> TwoWay | None:
        """The mean difference of two rows over their common seeds and the images."""
        there = set(self._finite(other))
        keys = [key for key in self._finite(row) if key in there]
        first, second = self._found(row, keys), self._found(other, keys)
        if first is None or second is None or not _same_images([*first, *second]):
            return None
        pairs = zip(first, second, strict=True)
        return self._table([difference for pair in pairs if (difference := _difference(*pair)) is not None])

    def is_proportion(self, row: Row) -> bool:
        """Whether the metric of the row is a share of the images: each is right or wrong."""
        found = self._found(row, self._finite(row))
        return bool(found) and all(values.is_proportion for values in found or ())

    def is_difference_of_proportions(self, row: Row, other: Row) -> bool:
        """Whether the metric of both rows is a share of the images."""
        return self.is_proportion(row) and self.is_proportion(other)

    def _finite(self, row: Row) -> list[Key]:
        return [key for key, score in row.scores(self._split, self._metric).items() if math.isfinite(score)]

    def _found(self, row: Row, keys: Iterable[Key]) -> list[ImageValues] | None:
        values = [self._of_run(row.runs[key]) for key in keys]
        there = [value for value in values if value is not None]
        return there if there and len(there) == len(values) and _same_images(there) else None

    def _table(self, found: list[ImageValues] | None) -> TwoWay | None:
        if not found:
            return None
        scores = [values.scores for values in found if values.scores is not None]
        if len(scores) == len(found):
            return two_way(np.stack(scores))
        resampled = [values.resampled for values in found if values.resampled is not None]
        if len(resampled) != len(found):
            return None
        return two_way_resampled([values.value for values in found], np.stack(resampled), len(found[0].index))

    def _of_run(self, run: LoadedRun) -> ImageValues | None:
        if not self.is_read:
            return None
        if run.identity not in self._values:
            values = _read(run, self._metric, self._resamples)
            said = run.value(self._split, self._metric)
            agrees = values is not None and math.isclose(values.value, said, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
            self._values[run.identity] = values if agrees else None
        return self._values[run.identity]

    @cached_property
    def _resamples(self) -> int:
        return RESAMPLES if len(self._runs) <= _MOST_RUNS_IN_FULL else _FEWER_RESAMPLES


def _difference(first: ImageValues, second: ImageValues) -> ImageValues | None:
    value = first.value - second.value
    if first.scores is not None and second.scores is not None:
        return ImageValues(value, first.index, scores=first.scores - second.scores)
    if first.resampled is not None and second.resampled is not None:
        return ImageValues(value, first.index, resampled=first.resampled - second.resampled)
    return None


def _same_images(found: Sequence[ImageValues]) -> bool:
    first: NDArray[np.int64] = found[0].index
    return all(np.array_equal(values.index, first) for values in found[1:])


def _read(run: LoadedRun, metric: str, resamples: int) -> ImageValues | None:
    try:
        with np.load(run.folder / PREDICTIONS_FILE, allow_pickle=False) as stored:
            return image_values({name: stored[name] for name in stored.files}, metric, resamples)
    except (OSError, ValueError, LookupError, zipfile.BadZipFile):
        return None  # a run need not keep its predictions, and a damaged file is none


def _size(run: LoadedRun) -> int:
    try:
        return (run.folder / PREDICTIONS_FILE).stat().st_size
    except OSError:
        return 0
