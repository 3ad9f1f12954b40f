"""What the study shows: comparisons with the chosen row, sample by sample too, and ranks over several data sets."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline import statistics
from thawline.files import sha256_of_file
from thawline.records.names import IMAGE_SCORE_ARRAY, PREDICTIONS_FILE
from thawline.reports.choosing import Group
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.rows import Key, Row
from thawline.reports.study import Study
from thawline.statistics import (
    EQUIVALENCE_CONFIDENCE,
    Bounds,
    ImageDifference,
    Interval,
    McNemar,
    PairedTest,
    Pairs,
    TwoWay,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The samples of a test set in order, and which of them the model gets right; both of shape (N,).
_Right = tuple["NDArray[np.int64]", "NDArray[np.bool_]"]

# The same with each sample's score.
_Scores = tuple["NDArray[np.int64]", "NDArray[np.float64]"]

EQUIVALENT = "equivalent"
"""The verdict on rows that differ by less than the margin."""

# Predictions are read from disk for this many seeds of a comparison at most.
_MOST_SEEDS_READ = 20


@dataclass(frozen=True)
class RowComparison:
    """The chosen row against another on the study's split, paired by seed.

    `difference` is chosen - other in the metric's own direction; `improvement` the probability that a run of the
    chosen row is the better one. None where the two have no replicate in common. `interval` is over seeds and images
    where the runs keep what they said of each image, which `both` has in parts, and over seeds alone where not.

    Attributes:
        verdict: what the difference shows, in words; empty: fewer than two pairs show nothing.
        corrected: the p of the sign flips, corrected for all comparisons of the group; None: not tested.
        jointly: whether by joint sign flips of all comparisons; otherwise by Holm.
    """

    other: Row
    n: int
    unpaired: int
    difference: float | None
    interval: Interval | None
    both: TwoWay | None
    bootstrap: Interval | None
    improvement: float | None
    sign_flip: PairedTest
    wilcoxon: PairedTest
    verdict: str
    corrected: float | None = None
    jointly: bool = False


@dataclass(frozen=True)
class SampleComparison:
    """McNemar's test of one seed's two models on the same test samples."""

    other: Row
    replicate: Key
    result: McNemar


@dataclass(frozen=True)
class ImageComparison:
    """The mean difference of the test images' scores between two rows, over `seeds` common seeds."""

    other: Row
    seeds: int
    result: ImageDifference


def comparisons(study: Study, group: Group) -> list[RowComparison]:
    """The chosen row of `group` against each other row that has runs, corrected over all of them."""
    if group.chosen is None:
        return []
    chosen = group.chosen
    others = [other for other in group.rows if other is not chosen and other.runs]
    # The limit is that of the first sentence, which speaks of what no race has dropped.
    rows = max(2, 1 + sum(not other.dropped for other in others))
    found = [compare(study, chosen, other, rows) for other in others]
    tested = [index for index, item in enumerate(found) if item.n > 1]
    pairs = [_pairs(study, chosen, others[index]) for index in tested]
    jointly = len({each.keys for each in pairs}) == 1
    if jointly:
        # Every seed has all differences, so its whole vector can be flipped at once.
        table = np.stack([each.differences for each in pairs], axis=1)
        p_values = [float(p) for p in statistics.joint_sign_flips(table)]
    else:
        p_values = statistics.holm([found[index].sign_flip.p for index in tested])
    adjusted = dict(zip(tested, p_values, strict=True))
    return [replace(item, corrected=adjusted.get(index), jointly=jointly) for index, item in enumerate(found)]


def _pairs(study: Study, row: Row, other: Row) -> Pairs:
    return statistics.paired(row.scores(study.split, study.metric), other.scores(study.split, study.metric))


def compare(study: Study, chosen: Row, other: Row, rows: int = 2) -> RowComparison:
    """The row `chosen` against `other`, one of `rows` rows, on the study's split; p is not yet corrected."""
    pairs = _pairs(study, chosen, other)
    differences = pairs.differences
    sign = 1.0 if study.mode == "max" else -1.0
    both = study.evidence.of_difference(chosen, other)
    proportions = both is not None and study.evidence.is_difference_of_proportions(chosen, other)

    lower, upper = study.definition.lower, study.definition.upper
    # No difference is larger than the metric's bounds are apart.
    bounds: Bounds = (None, None) if lower is None or upper is None else (lower - upper, upper - lower)

    def over(confidence: float) -> Interval | None:
        """The interval of the mean difference: over seeds and images, or over seeds alone."""
        if both is None:
            return statistics.within(statistics.t_interval(differences, confidence, study.resolution), bounds)
        return both.interval(confidence, bounds, difference=proportions)

    return RowComparison(
        other=other,
        n=len(pairs.keys),
        unpaired=len(pairs.only_x) + len(pairs.only_y),
        difference=float(differences.mean()) if differences.size else None,
        interval=over(statistics.CONFIDENCE),
        both=both,
        bootstrap=statistics.paired_bootstrap(pairs.x, pairs.y),
        improvement=statistics.probability_of_improvement(sign * pairs.x, sign * pairs.y) if differences.size else None,
        sign_flip=statistics.sign_flip(differences),
        wilcoxon=statistics.wilcoxon(differences),
        verdict=_verdict(study, sign * differences, over(EQUIVALENCE_CONFIDENCE), rows),
    )


def _verdict(study: Study, gains: NDArray[np.float64], narrow: Interval | None, rows: int) -> str:
    """What paired gains (n,) of a row over another show, by their 90 % interval and by the rule of the running."""
    if gains.size < 2:
        return ""
    if statistics.equivalent(narrow, study.margin):
        return EQUIVALENT
    found = statistics.beaten(gains, rows, resolution=study.resolution)
    return {1: "better", -1: "worse", 0: "not told apart"}[found]


@dataclass(frozen=True)
class TopTwo:
    """The two rows of a group with the best means, which nothing tells apart.

    `equivalent` is whether they differ by less than the margin; `seeds` how many would tell them apart, infinite where
    their means are the same.
    """

    first: Row
    second: Row
    equivalent: bool
    seeds: float


def top_two(study: Study, group: Group) -> TopTwo | None:
    """The best two rows in the running; None: there are no two."""
    running = group.running
    if running is None or len(running.remaining) < 2:
        return None
    first, second = running.remaining[:2]
    item = compare(study, first, second, len(running.compared))
    needed = statistics.seeds_needed(_pairs(study, first, second).differences)
    if needed is None:
        return None
    # They are not told apart with the seeds that there are.
    return TopTwo(first, second, item.verdict == EQUIVALENT, max(needed, item.n + 1))


def sample_comparisons(study: Study, chosen: Row, others: Sequence[Row]) -> list[SampleComparison]:
    """McNemar's test for each seed of `chosen` and of each of `others` whose runs keep their predictions."""
    right: dict[str, _Right | None] = {}
    found = []
    for other in others:
        for replicate in _replicates(chosen, other):
            first = _right(chosen.runs[replicate], right)
            second = _right(other.runs[replicate], right)
            if first is not None and second is not None and np.array_equal(first[0], second[0]):
                found.append(SampleComparison(other, replicate, statistics.mcnemar(first[1], second[1])))
    return found


def image_comparisons(study: Study, chosen: Row, others: Sequence[Row]) -> list[ImageComparison]:
    """The scores of the test images, means over the common seeds, of `chosen` against each of `others`."""
    read: dict[str, _Scores | None] = {}
    found = []
    for other in others:
        differences = []
        for replicate in _replicates(chosen, other):
            first, second = (_scores(row.runs[replicate], read) for row in (chosen, other))
            if first is not None and second is not None and np.array_equal(first[0], second[0]):
                differences.append(first[1] - second[1])
        if len({one.shape for one in differences}) != 1:
            continue
        means = np.mean(differences, axis=0)
        result = statistics.over_images(means[np.isfinite(means)])
        if result is not None:
            found.append(ImageComparison(other, len(differences), result))
    return found


def _replicates(chosen: Row, other: Row) -> list[Key]:
    """The seeds at which neither diverged, as many as are read."""
    there = other.usable
    return [key for key in chosen.usable if key in there][:_MOST_SEEDS_READ]


def _right(run: LoadedRun, read: dict[str, _Right | None]) -> _Right | None:
    if run.identity not in read:
        kept = in_order(run, "label", "probabilities")
        read[run.identity] = None
        if kept is not None and kept["probabilities"].ndim == 2:
            read[run.identity] = kept["index"], kept["probabilities"].argmax(axis=1) == kept["label"]
    return read[run.identity]


def _scores(run: LoadedRun, read: dict[str, _Scores | None]) -> _Scores | None:
    if run.identity not in read:
        kept = in_order(run, IMAGE_SCORE_ARRAY)
        read[run.identity] = None
        if kept is not None and kept[IMAGE_SCORE_ARRAY].ndim == 1:
            read[run.identity] = kept["index"], kept[IMAGE_SCORE_ARRAY].astype(np.float64)
    return read[run.identity]


def in_order(run: LoadedRun, *names: str) -> dict[str, NDArray[Any]] | None:
    """Arrays of a run's predictions by the samples' order in the data set, with their ``index``.

    None where there are none, or where the file is not the one that the run has left.
    """
    path = run.folder / PREDICTIONS_FILE
    try:
        if run.predictions_sha256 not in (None, sha256_of_file(path)):
            return None
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("index", *names)}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # a run need not keep its predictions, and a damaged file is none
    if any(array.ndim == 0 or len(array) != len(arrays["index"]) for array in arrays.values()):
        return None
    order = np.argsort(arrays["index"])
    return {name: array[order] for name, array in arrays.items()}
