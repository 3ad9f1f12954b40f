"""What the page shows of single runs and rows: learning curves, what training changed, and confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thawline.reports.changes import mean_change, networks
from thawline.reports.escaping import plain
from thawline.reports.loading import LoadedRun
from thawline.reports.per_class import confusion_of
from thawline.reports.rows import Row
from thawline.reports.study import Study

_MOST_NUMBERS = 60_000
"""Of all learning curves on a page: half a megabyte."""
_MOST_NETWORKS = 3
_MOST_MATRICES = 12
_MOST_PAIRS = 20_000
_MOST_CLASSES = 25
"""More do not fit a page's width."""
_LONGEST_NAME = 40


def curves(metric: str, runs: Sequence[LoadedRun | None]) -> dict[str, Any]:
    """Training loss and validation metric of each epoch, for as many runs as the page has room for.

    Args:
        metric: the metric.
        runs: the runs in the order of the page; None for one that is not drawn.

    Returns:
        ``runs``, a list of the runs' places with their two curves, to six digits, and ``of``, how many have curves.
    """
    there = [(place, run) for place, run in enumerate(runs) if run is not None and run.train_loss]
    drawn = []
    left = _MOST_NUMBERS
    for place, run in there:
        left -= 2 * len(run.train_loss)
        if left < 0:
            break
        drawn.append(
            {
                "run": place,
                "loss": list(map(_six, run.train_loss)),
                "metric": list(map(_six, run.validation.get(metric, ()))),
                "kept": run.chosen_epoch,
            }
        )
    return {"runs": drawn, "of": len(there)}


def changes(study: Study) -> list[dict[str, Any]]:
    """Drift and CKA of each layer group, the means over a row's runs, for each kind of network in the sweep."""
    places = {id(row): place for place, row in enumerate(study.rows)}
    return [
        {
            "groups": [plain(group, _LONGEST_NAME) for group in groups],
            "rows": [
                {
                    "row": places[id(row)],
                    "drift": [mean_change(row, place, lambda change: change.drift) for place in range(len(groups))],
                    "relative": [
                        mean_change(row, place, lambda change: change.relative) for place in range(len(groups))
                    ],
                    "cka": [mean_change(row, place, lambda change: change.cka) for place in range(len(groups))],
                }
                for row in rows
            ],
        }
        for groups, rows in list(networks(study).items())[:_MOST_NETWORKS]
    ]


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
    rows = [row for row in (*first, *study.best_first(study.rows)) if row is not None]
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


def _six(value: float) -> float:
    return float(f"{value:.6g}")
