"""The report's section on single classes, for records that have a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thawline.records import load_record
from thawline.reports.document import DASH, Line, Section, Table, columns, count, number
from thawline.reports.rows import Row
from thawline.reports.study import Study
from thawline.reports.tables import short

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_CLASSES = 20
_MOST_CONDITIONS = 12


@dataclass(frozen=True)
class ClassRecall:
    """One class of the test set over all seeds of a row: its samples, the share found, and what it is taken for."""

    name: str
    samples: int
    recall: float | None
    confused_with: str
    confused_share: float


def by_class(study: Study) -> Iterable[Section]:
    """Recall by class of the chosen rows, where the records have confusion matrices."""
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
        runs = sum(run.is_tested for run in group.chosen.runs.values())
        told = f"{short(group.chosen.label)} on the test set, summed over its {runs} runs."
        if len(recalls) > _MOST_CLASSES:
            told += f" The {_MOST_CLASSES} classes with the lowest recall of {len(recalls)}."
        table = Table(columns("class", "samples", "recall", "most often taken for", left=(0, 3)), tuple(lines))
        where = f" on {short(group.label)}" if group.label else ""
        yield Section(f"By class{where}", (told,), (table,))


def class_recalls(row: Row) -> list[ClassRecall]:
    """Recall by class on the test set, lowest first, summed over the row's runs; empty where no confusion is kept.

    The confusion matrix of a record has shape (true classes, predicted classes).
    """
    total: NDArray[np.int64] | None = None
    names: list[str] = []
    for run in row.runs.values():
        # The records of the chosen row are read again: keeping every run's matrix would cost memory by classes^2.
        record = load_record(run.folder)
        if not record.confusion_matrix:
            continue
        if names and names != record.classes:
            return []
        matrix, names = np.array(record.confusion_matrix, dtype=np.int64), record.classes
        total = matrix if total is None else total + matrix
    if total is None or total.shape != (len(names), len(names)):
        return []
    recalls = [_class_recall(total[index], index, names) for index in range(len(names))]
    return sorted(recalls, key=lambda item: math.inf if item.recall is None else item.recall)


def _class_recall(counts: NDArray[np.int64], index: int, names: Sequence[str]) -> ClassRecall:
    samples = int(counts.sum())
    wrong = counts.copy()
    wrong[index] = 0
    if not samples:
        return ClassRecall(names[index], 0, None, "", 0.0)
    other = int(wrong.argmax())
    taken_for = names[other] if wrong[other] else ""
    return ClassRecall(names[index], samples, int(counts[index]) / samples, taken_for, int(wrong[other]) / samples)
