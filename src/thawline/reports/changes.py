"""What training changed in each layer group, as the runs' diagnostics tell it."""

from __future__ import annotations

import math
from collections.abc import Callable

from thawline.reports.loaded_run import Change
from thawline.reports.rows import Row
from thawline.reports.study import Study

Groups = tuple[str, ...]
"""The names of a network's layer groups, from the stem to the output."""


def networks(study: Study) -> dict[Groups, list[Row]]:
    """The rows whose runs have diagnostics, by the layer groups of their network."""
    found: dict[Groups, list[Row]] = {}
    for row in study.rows:
        kinds = {run.groups for run in row.runs.values() if run.changes}
        if len(kinds) == 1:
            found.setdefault(kinds.pop(), []).append(row)
    return found


def mean_change(row: Row, place: int, of: Callable[[Change], float]) -> float:
    """The mean over the runs of a number of one layer group, over the finite ones; NaN where there is none."""
    values = [of(run.changes[place]) for run in row.usable.values() if run.changes]
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
