"""The choice among rows, made on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thawline import statistics
from thawline.records.metrics import NEVER, SelectionRule
from thawline.reports.rows import Key, Row, by_validation
from thawline.reports.running import Running, running
from thawline.statistics import Choice


@dataclass(frozen=True)
class Group:
    """Rows among which something is chosen: all of one condition, or those of one line of the figure.

    `chosen` is the row with the best validation mean among `candidates`, the rows that have most of the seeds: a row
    that misses runs, or in which one diverged, is not compared with whole ones. Ties are broken by the mean validation
    loss, then by the fewest trained weights. `running` has the rows that no other beats on the
    split of the results, among those that no race has dropped.
    """

    condition: Key
    label: str
    rows: tuple[Row, ...]
    candidates: tuple[Row, ...]
    chosen: Row | None
    per_replicate: Choice
    running: Running | None


def group_of(rows: Sequence[Row], rule: SelectionRule, split: str, label: str) -> Group:
    """The rows, called `label`, with the choice among them by `rule` and its scores on `split`."""
    chosen, candidates = best_of(rows, rule)
    # Of rows that tie on validation the first is taken, so the cheaper ones stand first.
    cheapest_first = tuple(sorted(candidates, key=lambda row: row.weights))
    per_replicate = statistics.choose_per_replicate(
        [row.ranks(rule) for row in cheapest_first],
        [row.scores(split, rule.metric) for row in cheapest_first],
        rule.direction,
    )
    # What a race has dropped is out of the running, whatever its audit says.
    left = [row for row in rows if not row.dropped]
    in_the_running = running(left, split, rule.metric, rule.direction)
    return Group(rows[0].condition, label, tuple(rows), cheapest_first, chosen, per_replicate, in_the_running)


def best_of(rows: Sequence[Row], rule: SelectionRule) -> tuple[Row | None, tuple[Row, ...]]:
    """The best row on validation, and the candidates: those with the most finite numbers on it.

    A row that a race has dropped is none.
    """
    finite = {
        index: 0 if row.dropped else sum(rank != NEVER for rank in row.ranks(rule).values())
        for index, row in enumerate(rows)
    }
    most = max(finite.values(), default=0)
    candidates = tuple(row for index, row in enumerate(rows) if finite[index] == most and most > 0)
    return min(candidates, key=by_validation(rule), default=None), candidates
