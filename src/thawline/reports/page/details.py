"""What the page shows of single runs and rows: their learning curves, and what training changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thawline.reports.changes import mean_change, networks
from thawline.reports.escaping import plain
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.study import Study

_MOST_NUMBERS = 40_000
"""Of all learning curves on a page: a third of a megabyte."""
_MOST_NETWORKS = 3
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


def _six(value: float) -> float:
    return float(f"{value:.6g}")
