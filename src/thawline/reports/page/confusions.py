"""Confusion matrices of the page, where the records have them."""

from __future__ import annotations

from typing import Any

import numpy as np

from thawline.reports.escaping import plain
from thawline.reports.per_class import confusion_of
from thawline.reports.rows import Row
from thawline.reports.study import Study

_MOST_MATRICES = 12
_MOST_PAIRS = 20_000
_MOST_CLASSES = 25
"""More do not fit a page's width."""
_LONGEST_NAME = 40


def confusions(study: Study) -> list[dict[str, Any]]:
    """Confusion matrices on test, each the sum over a row's runs: of the chosen rows and those they are held against.

    Of many classes those are kept that are most often taken for another one of them.
    """
    found = []
    for place, row in _of_interest(study):
        matrix = confusion_of(row)
        if matrix is None:
            continue
        names, counts = matrix
        kept = _most_confused(counts)
        found.append(
            {
                "row": place,
                "classes": [plain(names[index], _LONGEST_NAME) for index in kept],
                "of": len(names),
                "samples": counts.sum(axis=1)[kept].tolist(),
                "counts": counts[np.ix_(kept, kept)].tolist(),
            }
        )
    return found


def _of_interest(study: Study) -> list[tuple[int, Row]]:
    """The chosen row of each condition with its probe and its full fine-tuning, then the others, best first."""
    places = {id(row): place for place, row in enumerate(study.rows)}
    first = []
    for group in study.conditions:
        if group.chosen is not None:
            first += [group.chosen, study.probe_of(group.chosen), study.full_of(group.chosen)]
    others = study.best_first(study.rows) if study.any_validated else study.rows
    rows = [row for row in (*first, *others) if row is not None]
    unique = list({places[id(row)]: row for row in rows}.items())
    return unique[:_MOST_MATRICES]


def _most_confused(counts: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    if len(counts) <= _MOST_CLASSES:
        return list(range(len(counts)))
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    # A pair brings both of its classes, so that what they are taken for is seen.
    kept: dict[int, None] = {}
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]:
        pair = [int(index) for index in np.unravel_index(flat, wrong.shape)]
        if len({*kept, *pair}) > _MOST_CLASSES:
            break
        kept |= dict.fromkeys(pair)
    return sorted(kept)
