"""The sweep as a study: cells grouped into rows by everything but their seeds, and the choice made on validation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from thawline.errors import nearest, usage_error
from thawline.evaluation.corruptions import corruption_of
from thawline.records.metrics import NEVER, MetricDefinition, SelectionRule, selection_rule
from thawline.reports import statistics
from thawline.reports.loading import Cell, CountedFrom, LoadedRun, LoadedSweep, natural
from thawline.reports.statistics import Choice, Mode, Summary

VALIDATION = "val"
TEST = "test"
SPLIT_LABELS = {VALIDATION: "validation", TEST: "test"}
_REPLICATES = ("seed", "data_seed")
_OPENS = "open_test"
_DEPTHS = ("k", "depth")
# Means of the same numbers in another order differ in their last bits; what is equal up to that ties.
_DIGITS_OF_A_MEAN = 12
_DIGITS = 3
_MOST_DIGITS = 9

Key = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Axes:
    """The axes of a sweep by what they mean; only those with more than one value, `constant` holds the others.

    `replicates` (seeds) repeat a cell; `conditions` (the data set and how much of it) are what it is tried on and are
    never chosen; `depth` is the axis of the figure; `choices` are the strategies and settings that are compared. Where
    the depth axis is a number of layer groups, `counted_from` has the ends of the network that the runs' freeze
    policies count from.
    """

    replicates: tuple[str, ...]
    conditions: tuple[str, ...]
    depth: str | None
    choices: tuple[str, ...]
    constant: Mapping[str, str]
    counted_from: frozenset[CountedFrom] = frozenset()

    @property
    def depth_is_layers(self) -> bool:
        """Whether the depth axis counts layer groups (and not what the user named with ``--axis``)."""
        return self.depth is not None and bool(self.counted_from)

    @property
    def how_counted(self) -> str:
        """The end of the network that k is counted from, in words; empty where the policies differ in it."""
        return f"counted from the {next(iter(self.counted_from))}" if len(self.counted_from) == 1 else ""

    @property
    def data_sets(self) -> bool:
        """Whether the conditions are different data sets, whose scores are on different scales."""
        return "dataset" in self.conditions


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seeds alone; `runs` maps a replicate (the values of its seeds) to its run.

    `repeated` counts cells that resolve to a run which the row has already: the same number twice is no replicate.
    `reopened` counts runs that another one of the row repeats with the test split opened; they are not in `runs`.
    """

    condition: Key
    choice: Key
    depth_value: str | None
    label: str
    cells: tuple[Cell, ...]
    runs: Mapping[Key, LoadedRun]
    repeated: int
    reopened: int = 0

    @property
    def missing(self) -> int:
        """Cells without a valid record."""
        return sum(cell.run is None for cell in self.cells)

    @property
    def diverged(self) -> int:
        """Runs that diverged, as their records say."""
        return sum(run.diverged for run in self.runs.values())

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
            key: math.nan if run.diverged else run.metrics[split][metric]
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
        return rule.rank({name: _rounded(found.mean) for name, found in means.items() if found.count})

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
            [run.metrics[split][metric] for split in splits if metric in run.metrics.get(split, {})]
            for run in self.runs.values()
            if not run.diverged
        ]
        return statistics.summary([sum(found) / len(found) for found in values if found and len(found) == len(splits)])

    def mean_of(self, of: Callable[[LoadedRun], float]) -> float | None:
        """The mean of a cost over the runs; None where there is no run."""
        values = [of(run) for run in self.runs.values()]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Group:
    """Rows among which something is chosen: all of one condition, or those of one line of the figure.

    `chosen` is the row with the best validation mean among `candidates`, the rows that have most of the seeds: a row
    that misses runs, or in which one diverged, is not compared with whole ones. Ties are broken by the mean validation
    loss, then by the fewest trained weights.
    """

    condition: Key
    label: str
    rows: tuple[Row, ...]
    candidates: tuple[Row, ...]
    chosen: Row | None
    per_replicate: Choice


@dataclass(frozen=True)
class Study:
    """Rows in the order of the report, the metric they are compared by, and what was chosen on validation.

    `definition` says how the metric is read, `rule` how rows are chosen by it on validation. `split` is where results
    are compared: test, or validation where a run did not open test, so that all rows are compared on the same split.
    `conditions` has one group per condition, `series` one per line of the figure (None but for a depth axis).
    """

    sweep: LoadedSweep
    axes: Axes
    metric: str
    definition: MetricDefinition
    rule: SelectionRule
    split: str
    rows: tuple[Row, ...]
    conditions: tuple[Group, ...]
    series: tuple[Group, ...]
    notes: tuple[str, ...]

    @property
    def metric_label(self) -> str:
        """The metric in words."""
        return self.definition.label

    @property
    def split_label(self) -> str:
        """The split on which results are compared, in words."""
        return SPLIT_LABELS[self.split]

    @cached_property
    def untested(self) -> int:
        """How many of the compared runs did not open the test split."""
        return sum(not run.is_tested for row in self.rows for run in row.runs.values())

    @cached_property
    def any_tested(self) -> bool:
        """Whether any of the compared runs opened the test split."""
        return any(run.is_tested for row in self.rows for run in row.runs.values())

    @property
    def direction_note(self) -> str:
        """For a metric of which less is better a note that says so; empty for the others."""
        return "lower is better" if self.mode == "min" else ""

    @property
    def axis_label(self) -> str:
        """The metric as an axis shows it."""
        return f"{self.metric_label}, {self.direction_note}" if self.direction_note else self.metric_label

    @cached_property
    def digits(self) -> int:
        """Digits after the point of the metric: three from 0.1 to 10, fewer for larger and more for smaller numbers."""
        values = [abs(y) for row in self.rows for s in SPLIT_LABELS for y in row.scores(s, self.metric).values()]
        largest = max(filter(math.isfinite, values), default=0.0)
        if largest == 0:
            return _DIGITS
        magnitude = math.floor(math.log10(largest))
        wanted = 2 - magnitude if magnitude < -1 else _DIGITS - max(magnitude, 0)
        return min(max(wanted, 0), _MOST_DIGITS)

    @property
    def mode(self) -> Mode:
        """Whether less or more of the metric is better."""
        return self.definition.direction

    @property
    def tie_break_label(self) -> str | None:
        """The metric that breaks ties, in words; None where none does."""
        return self.rule.tie_break and self.sweep.runs[0].definitions[self.rule.tie_break].label

    def best_first(self, rows: Iterable[Row]) -> list[Row]:
        """Those of `rows` that can be chosen, from the best on validation to the worst."""
        return [row for row in sorted(rows, key=_order(self.rule)) if row.rank(self.rule) != NEVER]

    @property
    def missing(self) -> int:
        """Cells without a valid record."""
        return sum(cell.run is None for cell in self.sweep.cells)

    @cached_property
    def further_tests(self) -> tuple[str, ...]:
        """The splits ``test/<name>`` that any run has, in order."""
        found = {split: None for run in self.sweep.runs for split in run.metrics if split.startswith(f"{TEST}/")}
        return tuple(found)

    @cached_property
    def corrupted_tests(self) -> dict[str, tuple[str, int]]:
        """Of `further_tests` those of corrupted images: split -> (corruption, strength)."""
        found = {split: corruption_of(split.removeprefix(f"{TEST}/")) for split in self.further_tests}
        return {split: which for split, which in found.items() if which is not None}

    @property
    def side_tests(self) -> tuple[str, ...]:
        """The further tests that stand beside the test split: each set of its own, and means over corrupted ones."""
        return tuple(split for split in self.further_tests if split not in self.corrupted_tests)

    def is_chosen(self, row: Row) -> bool:
        """Whether `row` is the best of its condition by validation."""
        return any(group.chosen is row for group in self.conditions)

    def is_chosen_in_series(self, row: Row) -> bool:
        """Whether `row` is the best of its line of the figure by validation."""
        return any(group.chosen is row for group in self.series)

    def probe_of(self, row: Row) -> Row | None:
        """The plain linear probe to compare `row` with; None where there is none, or where `row` is one.

        Of several the one that shares most settings with `row` is taken, of these the best by validation. In a sweep
        over depths without a plain one it is the k = 0 of the row's own line of the figure.
        """
        return self._reference(row, lambda other: other.is_probe)

    def full_of(self, row: Row) -> Row | None:
        """The plain full fine-tuning to compare `row` with, found as the probe is."""
        return self._reference(row, lambda other: other.is_full)

    def _reference(self, row: Row, is_one: Callable[[Row], bool]) -> Row | None:
        rows = [other for other in self.rows if other.condition == row.condition and is_one(other)]
        # Strategies that add something to full fine-tuning train everything too; the plain one is the reference.
        plain = [other for other in rows if other.is_plain]
        if not plain and self.axes.depth:
            plain = [other for other in rows if other.choice == row.choice]
        if row in plain:
            return None
        shared = [sum(a == b for a, b in zip(row.choice, other.choice, strict=True)) for other in plain]
        nearest = [other for other, n in zip(plain, shared, strict=True) if n == max(shared)]
        return _best(nearest, self.rule)[0]


def make_study(sweep: LoadedSweep, metric: str | None = None, axis: str | None = None) -> Study:
    """Group the cells of a sweep into rows and choose among them on validation.

    Args:
        sweep: the sweep.
        metric: what the runs are evaluated by; by default what they selected their checkpoint by.
        axis: the axis of the figure; by default the one that counts layer groups, if there is one.

    Raises:
        UsageError: no run is done, or the sweep has no such metric or axis.
    """
    if not sweep.runs:
        raise usage_error("sweep", f"{sweep.folder}: no finished run yet, so there is nothing to report")
    notes: list[str] = []
    rule, definition = _metric(sweep.runs, metric, notes)
    axes = _axes(sweep, axis)
    rows = _ordered(_rows(sweep, axes), axes, rule)
    tested = all(run.is_tested for row in rows for run in row.runs.values())
    split = TEST if tested else VALIDATION
    groups = [
        _group(members, rule, split, ", ".join(setting_labels(axes.conditions, members[0].condition)))
        for members in _by(rows, lambda row: row.condition).values()
    ]
    series = [
        _group(members, rule, split, line_label(axes, members[0]))
        for members in _by(rows, lambda row: (row.condition, row.choice)).values()
        if axes.depth
    ]
    return Study(
        sweep, axes, rule.metric, definition, rule, split, tuple(rows), tuple(groups), tuple(series), tuple(notes)
    )


def _metric(runs: Sequence[LoadedRun], wanted: str | None, notes: list[str]) -> tuple[SelectionRule, MetricDefinition]:
    monitors = Counter(run.monitor.removeprefix(f"{VALIDATION}/") for run in runs)
    monitor = monitors.most_common(1)[0][0]
    if len(monitors) > 1:
        names = ", ".join(sorted(monitors))
        notes.append(f"The runs did not all select their checkpoint by the same metric: {names}.")
    known = {name: None for run in runs for split in (TEST, VALIDATION) for name in run.metrics.get(split, {})}
    metric = wanted or monitor
    if metric not in known:
        raise usage_error(
            "metric", f"no run has a metric {metric!r}{nearest(metric, known)} (there are: {_few(known)})"
        )
    if metric != monitor:
        notes.append(f"The runs selected their checkpoint by {monitor}; this report compares them by {metric}.")
    definition = _definition(runs, metric)
    (tie_break, _), *_ = Counter(run.tie_break for run in runs).most_common(1)
    definitions = {metric: definition}
    if tie_break is not None and any(tie_break in run.definitions for run in runs):
        definitions[tie_break] = _definition(runs, tie_break)
    return selection_rule(metric, definitions, tie_break), definition


def _definition(runs: Sequence[LoadedRun], metric: str) -> MetricDefinition:
    """How the records say that a metric is read."""
    found = {run.definitions[metric] for run in runs if metric in run.definitions}
    if not found:
        raise usage_error("metric", f"no record defines {metric!r}: whether more or less of it is better is not known")
    if len(found) > 1:
        raise usage_error("metric", f"the records define {metric!r} in different ways: {_few(map(str, found))}")
    return found.pop()


def _axes(sweep: LoadedSweep, wanted: str | None) -> Axes:
    varied = {axis: values for axis, values in sweep.axes.items() if len(set(values)) > 1}
    constant = {axis: values[0] for axis, values in sweep.axes.items() if axis not in varied and values}
    replicates = tuple(axis for axis in varied if axis.rpartition(".")[2] in _REPLICATES)
    # Whether a run opens test changes nothing of its training: it is neither a choice nor a replicate.
    open_axes = [axis for axis in varied if axis not in (*replicates, _OPENS)]
    if wanted is not None and wanted not in open_axes:
        raise usage_error(
            "axis", f"the sweep has no axis {wanted!r}{nearest(wanted, open_axes)} (there are: {_few(open_axes)})"
        )
    depth = wanted or next((axis for axis in open_axes if _is_depth(axis)), None)
    conditions = tuple(axis for axis in open_axes if axis.partition(".")[0] == "dataset" and axis != depth)
    choices = tuple(axis for axis in open_axes if axis != depth and axis not in conditions)
    counted = _counted_from(sweep.runs) if depth is not None and _is_depth(depth) else frozenset()
    return Axes(replicates, conditions, depth, choices, constant, counted)


def _is_depth(axis: str) -> bool:
    return axis.partition(".")[0] == "freeze_policy" and axis.rpartition(".")[2] in _DEPTHS


def _counted_from(runs: Sequence[LoadedRun]) -> frozenset[CountedFrom]:
    """The ends of the network that the runs' policies count layer groups from; empty where one does not count them."""
    ends = {run.counted_from for run in runs}
    return frozenset(end for end in ends if end is not None) if None not in ends else frozenset()


def _rows(sweep: LoadedSweep, axes: Axes) -> list[Row]:
    def place(cell: Cell) -> tuple[Key, Key, str | None]:
        condition = tuple(cell.values[axis] for axis in axes.conditions)
        choice = tuple(cell.values[axis] for axis in axes.choices)
        return condition, choice, cell.values[axes.depth] if axes.depth else None

    return [_row(cells, axes, *place(cells[0])) for cells in _by(sweep.cells, place).values()]


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
        twin = runs.get(replicate) if _OPENS in cell.values else None
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


def setting_labels(axes: Sequence[str], values: Sequence[str]) -> list[str]:
    """A short word for each axis and value: ``resnet18`` for a config group, ``lr=0.1`` for a field of one."""
    return [
        f"{axis.rpartition('.')[2]}={value or 'default'}" if "." in axis else (value or f"default {axis}")
        for axis, value in zip(axes, values, strict=True)
    ]


def line_label(axes: Axes, row: Row) -> str:
    """A row's line in the figure: its condition and its choices."""
    parts = [*setting_labels(axes.conditions, row.condition), *setting_labels(axes.choices, row.choice)]
    return ", ".join(parts)


def _ordered(rows: Sequence[Row], axes: Axes, rule: SelectionRule) -> list[Row]:
    by_condition = _by(rows, lambda row: row.condition)
    if not axes.depth:
        return [row for members in by_condition.values() for row in sorted(members, key=_order(rule))]
    order = {value: index for index, value in enumerate(dict.fromkeys(row.depth_value or "" for row in rows))}
    # Counts stand in their order; where depth is a group's name the runs know how deep it is.
    named = any(natural(value)[0] for value in order)

    def along(row: Row) -> tuple[float, int]:
        value = row.depth_value or ""
        if not named:
            return natural(value)[1], order[value]
        return row.depth if axes.depth_is_layers and row.depth is not None else order[value], order[value]

    lines = _by(rows, lambda row: (row.condition, row.choice)).values()
    return [row for members in lines for row in sorted(members, key=along)]


def _rounded(mean: float | None) -> float | None:
    return None if mean is None else float(f"{mean:.{_DIGITS_OF_A_MEAN}g}")


def _order(rule: SelectionRule) -> Callable[[Row], tuple[float, float, float]]:
    def key(row: Row) -> tuple[float, float, float]:
        first, second = row.rank(rule)
        return -first, -second, row.weights

    return key


def _best(rows: Sequence[Row], rule: SelectionRule) -> tuple[Row | None, tuple[Row, ...]]:
    finite = {index: sum(rank != NEVER for rank in row.ranks(rule).values()) for index, row in enumerate(rows)}
    most = max(finite.values(), default=0)
    candidates = tuple(row for index, row in enumerate(rows) if finite[index] == most and most > 0)
    return min(candidates, key=_order(rule), default=None), candidates


def _group(rows: Sequence[Row], rule: SelectionRule, split: str, label: str) -> Group:
    chosen, candidates = _best(rows, rule)
    # Of rows that tie on validation the first is taken, so the cheaper ones stand first.
    cheapest_first = tuple(sorted(candidates, key=lambda row: row.weights))
    per_replicate = statistics.choose_per_replicate(
        [row.ranks(rule) for row in cheapest_first],
        [row.scores(split, rule.metric) for row in cheapest_first],
        rule.direction,
    )
    return Group(rows[0].condition, label, tuple(rows), cheapest_first, chosen, per_replicate)


def _by(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "") if listed else "none"
