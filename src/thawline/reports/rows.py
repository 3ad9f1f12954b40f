"""Cells grouped into rows by everything but their seeds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from thawline import statistics
from thawline.records.metrics import SelectionRule, comparable
from thawline.reports.axes import OPENS, Axes, setting_labels
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.loading import Cell, LoadedSweep, natural
from thawline.reports.split_names import VALIDATION
from thawline.statistics import Summary

Key = tuple[str, ...]
T = TypeVar("T")

_LINEAR = ("Linear", "SourceRows", "SegmentationLinear")
"""The heads that are linear in the features, as a recipe names them."""


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seeds alone; `runs` maps a replicate (the values of its seeds) to its run.

    `repeated` counts cells that resolve to a run which the row has already: the same number twice is no replicate.
    `reopened` counts runs that another one of the row repeats with the test split opened; they are not in `runs`.
    `dropped` rows were dropped by a race and run for its audit alone: they are shown, and never chosen.
    """

    condition: Key
    choice: Key
    depth_value: str | None
    label: str
    cells: tuple[Cell, ...]
    runs: Mapping[Key, LoadedRun]
    repeated: int
    reopened: int = 0
    dropped: bool = False

    @property
    def missing(self) -> int:
        """Cells without a valid record."""
        return sum(cell.run is None for cell in self.cells)

    @property
    def diverged(self) -> int:
        """Runs that diverged, as their records say."""
        return sum(run.diverged for run in self.runs.values())

    @property
    def usable(self) -> dict[Key, LoadedRun]:
        """The runs that did not diverge, by replicate: those that means are over."""
        return {key: run for key, run in self.runs.items() if not run.diverged}

    @cached_property
    def depth(self) -> float | None:
        """Layer groups that trained, the mean where the runs differ; None where there is no run."""
        mean = self.mean_of(lambda run: run.depth)
        return int(mean) if mean is not None and mean == int(mean) else mean

    @property
    def is_probe(self) -> bool:
        """Whether the head alone trains."""
        return bool(self.runs) and all(run.trains == "head" for run in self.runs.values())

    @property
    def probe_name(self) -> str:
        """What it is called where the head alone trains: a linear probe only if the head is linear in the features."""
        heads = [dict(run.recipe).get("head") for run in self.runs.values()]
        # Records that do not say it are of versions whose heads were.
        return "linear probe" if all(head is None or head.startswith(_LINEAR) for head in heads) else "head alone"

    @property
    def is_full(self) -> bool:
        """Whether everything trains."""
        return bool(self.runs) and all(run.trains == "all" for run in self.runs.values())

    @property
    def is_plain(self) -> bool:
        """Whether nothing is added to training what trains, as the records state it: no regularizer, no rates, ..."""
        return bool(self.runs) and all(run.additions == () for run in self.runs.values())

    def common(self, of: Callable[[LoadedRun], T]) -> T | None:
        """What `of` gives for every run, or None where the runs differ or there is none."""
        values = {of(run) for run in self.runs.values()}
        return values.pop() if len(values) == 1 else None

    def scores(self, split: str, metric: str) -> dict[Key, float]:
        """The metric of a split by replicate, NaN where the run diverged; runs that lack it are not in it."""
        return {
            key: run.score(split, metric)
            for key, run in self.runs.items()
            if split in run.metrics and metric in run.metrics[split]
        }

    def summary(self, split: str, metric: str) -> Summary:
        """The summary of a metric over the runs."""
        if (split, metric) not in self._summaries:
            scores = list(self.scores(split, metric).values())
            self._summaries[split, metric] = statistics.summary(scores, bounds=self._bounds(metric))
        return self._summaries[split, metric]

    def _bounds(self, metric: str) -> statistics.Bounds:
        known = (run.definitions[metric] for run in self.runs.values() if metric in run.definitions)
        definition = next(known, None)
        return (None, None) if definition is None else (definition.lower, definition.upper)

    @cached_property
    def _summaries(self) -> dict[tuple[str, str], Summary]:
        return {}

    def rank(self, rule: SelectionRule) -> tuple[float, float]:
        """How good the row is on validation, by its means over the runs: larger is better (see `SelectionRule`)."""
        means = {name: self.summary(VALIDATION, name) for name in (rule.metric, rule.tie_break) if name is not None}
        return rule.rank({name: comparable(found.mean) for name, found in means.items() if found.count})

    def ranks(self, rule: SelectionRule) -> dict[Key, tuple[float, float]]:
        """How good each run is on validation, by replicate; runs that lack the metric are not in it."""
        names = [name for name in (rule.metric, rule.tie_break) if name is not None]
        scores = {name: self.scores(VALIDATION, name) for name in names}
        return {
            key: rule.rank({name: found[key] for name, found in scores.items() if key in found})
            for key in scores[rule.metric]
        }

    @property
    def weights(self) -> float:
        """Trained parameters, the mean over the runs; of equally good rows the one with the fewest is taken."""
        return self.mean_of(lambda run: run.trainable) or 0.0

    def summary_over(self, splits: Collection[str], metric: str) -> Summary:
        """The summary over the runs of a metric's mean over several splits; runs that lack one are not in it."""
        values = [
            [run.score(split, metric) for split in splits if metric in run.metrics.get(split, {})]
            for run in self.runs.values()
            if not run.diverged
        ]
        return statistics.summary([sum(found) / len(found) for found in values if found and len(found) == len(splits)])

    def mean_of(self, of: Callable[[LoadedRun], float]) -> float | None:
        """The mean of a cost over the runs; None where there is no run."""
        values = [of(run) for run in self.runs.values()]
        return sum(values) / len(values) if values else None


def rows_of(sweep: LoadedSweep, axes: Axes) -> list[Row]:
    """The rows of a sweep, in the order of their first cells."""

    def place(cell: Cell) -> tuple[Key, Key, str | None]:
        condition = tuple(cell.values[axis] for axis in axes.conditions)
        choice = tuple(cell.values[axis] for axis in axes.choices)
        return condition, choice, cell.values[axes.depth] if axes.depth else None

    return [_row(cells, axes, *place(cells[0])) for cells in grouped(sweep.cells, place).values()]


def _row(cells: Sequence[Cell], axes: Axes, condition: Key, choice: Key, depth_value: str | None) -> Row:
    runs: dict[Key, LoadedRun] = {}
    read: set[str] = set()
    repeated = reopened = 0
    for cell in cells:
        if cell.run is None:
            continue
        if cell.identity in read:
            repeated += 1
            continue
        read.add(cell.identity)
        replicate = tuple(cell.values[axis] for axis in axes.replicates)
        twin = runs.get(replicate) if OPENS in cell.values else None
        if twin is not None and twin.is_tested != cell.run.is_tested:
            reopened += 1
            runs[replicate] = twin if twin.is_tested else cell.run
            continue
        # A folder of runs may hold some that no override tells apart; each is a run all the same.
        runs[(*replicate, cell.identity) if replicate in runs else replicate] = cell.run
    parts = [*setting_labels(axes.conditions, condition), *setting_labels(axes.choices, choice)]
    if axes.depth and axes.depth_is_layers:
        depths = {run.depth for run in runs.values()}
        parts.append(f"k = {depths.pop() if len(depths) == 1 else depth_value}")
    elif axes.depth:
        parts.extend(setting_labels([axes.depth], [depth_value or ""]))
    return Row(condition, choice, depth_value, ", ".join(parts) or "all runs", tuple(cells), runs, repeated, reopened)


def line_label(axes: Axes, row: Row) -> str:
    """A row's line in the figure: its condition and its choices."""
    parts = [*setting_labels(axes.conditions, row.condition), *setting_labels(axes.choices, row.choice)]
    return ", ".join(parts)


def in_order(rows: Sequence[Row], axes: Axes, rule: SelectionRule) -> list[Row]:
    """The rows of a report: along the depth of each line, or the best on validation first in each condition."""
    by_condition = grouped(rows, lambda row: row.condition)
    if not axes.depth:
        return [row for members in by_condition.values() for row in sorted(members, key=by_validation(rule))]
    order = {value: index for index, value in enumerate(dict.fromkeys(row.depth_value or "" for row in rows))}
    # Counts stand in their order; where depth is a group's name the runs know how deep it is.
    named = any(natural(value)[0] for value in order)

    def along(row: Row) -> tuple[float, int]:
        value = row.depth_value or ""
        if not named:
            return natural(value)[1], order[value]
        return row.depth if axes.depth_is_layers and row.depth is not None else order[value], order[value]

    lines = grouped(rows, lambda row: (row.condition, row.choice)).values()
    return [row for members in lines for row in sorted(members, key=along)]


def by_validation(rule: SelectionRule) -> Callable[[Row], tuple[float, float, float]]:
    """A key that sorts rows from the best on validation to the worst; of equals the smaller stands first."""

    def key(row: Row) -> tuple[float, float, float]:
        first, second = row.rank(rule)
        return -first, -second, row.weights

    return key


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    """The items by their keys, in the order of their first ones."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
