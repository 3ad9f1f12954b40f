"""The report's section on single classes: recall from confusion matrices, or what a task measures of each class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline import statistics
from thawline.errors import counted
from thawline.records import load_record
from thawline.reports.choosing import Group
from thawline.reports.document import DASH, Line, Section, Table, columns, count, number
from thawline.reports.rows import Row
from thawline.reports.study import Study
from thawline.reports.tables import mean_sd, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_CLASSES = 20
_MOST_CONDITIONS = 12
_MOST_ROWS = 8
_MOST_SAID = 3
_HEADINGS = {
    "iou": "IoU",
    "f1": "F1",
    "map": "AP",
    "map50": "AP at IoU 0.5",
    "mask_map": "mask AP",
    "mask_map50": "mask AP at IoU 0.5",
}
"""Of a single class there is no mean over classes: what a record calls map is its average precision."""


@dataclass(frozen=True)
class ClassRecall:
    """One class of the test set over all seeds of a row: its samples, the share found, and what it is taken for."""

    name: str
    samples: int
    recall: float | None
    confused_with: str
    confused_share: float


@dataclass(frozen=True)
class ClassMeasures:
    """What the runs of a row measured of each class on the test set.

    Attributes:
        names: of the classes.
        images: how many test images show each class.
        values: by the name of the measure, for each class a value of each run that has one.
        runs: how many runs there are.
    """

    names: tuple[str, ...]
    images: tuple[int, ...]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    runs: int


def by_class(study: Study) -> Iterable[Section]:
    """Each class on the test set, in the chosen rows: what it is taken for, or the task's own measures."""
    yield from _recalls(study)
    for group in study.conditions[:_MOST_CONDITIONS]:
        measured = class_measures(group.chosen) if group.chosen else None
        if group.chosen is not None and measured is not None:
            yield _measures(study, group, group.chosen, measured)


def one_class_warnings(study: Study) -> list[str]:
    """The rows with runs that said one and the same class of every test image."""
    found = []
    for row in study.rows:
        said = [run.said_of_all for run in row.usable.values() if run.said_of_all]
        if said:
            names = [f"'{short(name)}'" for name in dict.fromkeys(said)]
            listed = " or ".join(names[:_MOST_SAID]) + (" or ..." if len(names) > _MOST_SAID else "")
            found.append(f"{short(row.label)}: {len(said)} of {len(row.runs)}, {listed}")
    if not found:
        return []
    more = f"; and {counted(len(found) - _MOST_ROWS, 'more row')}" if len(found) > _MOST_ROWS else ""
    return [f"Runs took every test image for one and the same class ({'; '.join(found[:_MOST_ROWS])}{more})."]


def class_measures(row: Row) -> ClassMeasures | None:
    """What the records of a row's tested runs have of each class; None: nothing, or not of the same classes."""
    values: dict[str, dict[str, list[float]]] = {}
    images: dict[str, int] = {}
    runs = 0
    for run in row.usable.values():
        record = load_record(run.folder)
        if not record.per_class:
            continue
        shown = dict(zip(record.classes, record.splits["test"].per_class, strict=False)) if run.is_tested else {}
        if images and images.keys() != record.per_class.keys():
            return None
        images, runs = {name: shown.get(name, 0) for name in record.per_class}, runs + 1
        for name, measures in record.per_class.items():
            for measure, value in measures.items():
                found = values.setdefault(measure, {}).setdefault(name, [])
                found += [] if value is None else [value]
    return ClassMeasures(tuple(images), tuple(images.values()), values, runs) if runs else None


def _measures(study: Study, group: Group, chosen: Row, measured: ClassMeasures) -> Section:
    # The one that the rows are compared by comes first: iou of mean_iou.
    measures = sorted(measured.values, key=lambda name: -len(name) if study.metric.endswith(name) else 0)
    first = measures[0]
    others: dict[str, ClassMeasures] = {}
    probe, full = study.probe_of(chosen), study.full_of(chosen)
    for name, other in ((probe.probe_name if probe else "", probe), ("full fine-tuning", full)):
        of_other = class_measures(other) if other is not None else None
        if of_other is not None and of_other.names == measured.names and first in of_other.values:
            others[f"{_heading(first)}, {name}"] = of_other
    images = dict(zip(measured.names, measured.images, strict=True))
    ranked = sorted(measured.names, key=lambda name: statistics.summary(measured.values[first][name]).mean or -1.0)
    ranked.sort(key=lambda name: not measured.values[first][name])
    lines = [
        Line(
            (
                short(name),
                count(images[name]),
                *(mean_sd(statistics.summary(measured.values[measure][name])) for measure in measures),
                *(mean_sd(statistics.summary(other.values[first][name])) for other in others.values()),
            )
        )
        for name in ranked[:_MOST_CLASSES]
    ]
    told = f"{short(chosen.label) or 'All runs'} on the test set, the mean over {measured.runs} "
    told += "run." if measured.runs == 1 else "runs ± standard deviation."
    if len(ranked) > _MOST_CLASSES:
        told += f" The {_MOST_CLASSES} classes with the lowest {_heading(first)} of {len(ranked)}."
    missing = any(not values for of_class in measured.values.values() for values in of_class.values())
    note = "A dash: nothing on test shows the class, so there is no value." if missing else ""
    headings = ("class", "test images", *map(_heading, measures), *others)
    where = f" on {short(group.label)}" if group.label else ""
    return Section(f"By class{where}", (told,), (Table(columns(*headings), tuple(lines), note=note),))


def _heading(measure: str) -> str:
    return _HEADINGS.get(measure, measure.replace("_", " "))


def _recalls(study: Study) -> Iterable[Section]:
    """Recall by class of the chosen rows, where the records have confusion matrices; the page draws them once."""
    begun = False
    for group in study.conditions[:_MOST_CONDITIONS]:
        recalls = class_recalls(group.chosen) if group.chosen else []
        if group.chosen is None or not recalls:
            continue
        lines = [
            Line(
                (
                    short(item.name),
                    count(item.samples),
                    number(item.recall),
                    f"{short(item.confused_with)} ({100 * item.confused_share:.1f} %)" if item.confused_with else DASH,
                )
            )
            for item in recalls[:_MOST_CLASSES]
        ]
        runs = sum(run.is_tested for run in group.chosen.usable.values())
        summed = "of its one run" if runs == 1 else f"summed over its {runs} runs"
        told = f"{short(group.chosen.label)} on the test set, {summed}."
        if len(recalls) > _MOST_CLASSES:
            told += f" The {_MOST_CLASSES} classes with the lowest recall of {len(recalls)}."
        table = Table(columns("class", "samples", "recall", "most often taken for", left=(0, 3)), tuple(lines))
        where = f" on {short(group.label)}" if group.label else ""
        yield Section(f"By class{where}", (told,), (table,), chart="" if begun else "confusion")
        begun = True


def class_recalls(row: Row) -> list[ClassRecall]:
    """Recall by class on the test set, lowest first, summed over the row's runs; empty where no confusion is kept."""
    found = confusion_of(row)
    if found is None:
        return []
    names, total = found
    recalls = [_class_recall(total[index], index, names) for index in range(len(names))]
    return sorted(recalls, key=lambda item: math.inf if item.recall is None else item.recall)


def confusion_of(row: Row) -> tuple[list[str], NDArray[np.int64]] | None:
    """The classes, and the confusion matrix (true classes, predicted classes) on test, summed over the row's runs.

    None where no run has one, or where they are not of the same classes.
    """
    total: NDArray[np.int64] | None = None
    names: list[str] = []
    for run in row.usable.values():
        # The records of a row are read again: keeping every run's matrix would cost memory by classes^2.
        record = load_record(run.folder)
        if not record.confusion_matrix:
            continue
        if names and names != record.classes:
            return None
        matrix, names = np.array(record.confusion_matrix, dtype=np.int64), record.classes
        total = matrix if total is None else total + matrix
    if total is None or total.shape != (len(names), len(names)):
        return None
    return names, total


def _class_recall(counts: NDArray[np.int64], index: int, names: Sequence[str]) -> ClassRecall:
    samples = int(counts.sum())
    wrong = counts.copy()
    wrong[index] = 0
    if not samples:
        return ClassRecall(names[index], 0, None, "", 0.0)
    other = int(wrong.argmax())
    taken_for = names[other] if wrong[other] else ""
    return ClassRecall(names[index], samples, int(counts[index]) / samples, taken_for, int(wrong[other]) / samples)
