"""The sweep as a study: its rows, the metric that they are compared by, and the choice made on validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from thawline.errors import usage_error
from thawline.evaluation.corruptions import corruption_of
from thawline.records.metrics import NEVER, MetricDefinition, SelectionRule
from thawline.reports.axes import Axes, axes_of, setting_labels
from thawline.reports.choosing import Group, best_of, group_of
from thawline.reports.compared_metric import compared_metric
from thawline.reports.document import DIGITS, digits_of
from thawline.reports.image_evidence import ImageEvidence
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.loading import LoadedSweep
from thawline.reports.rows import Row, by_validation, grouped, in_order, line_label, rows_of
from thawline.reports.running import resolution
from thawline.reports.split_names import SPLIT_LABELS, TEST, VALIDATION
from thawline.reports.stages import Stages, load_stages
from thawline.statistics import Interval, Mode, summary

DEFAULT_MARGIN = 0.01
"""One point: of metrics between 0 and 1, what does not matter."""
OVER_SEEDS = "t interval"
OVER_IMAGES = "interval over test images"
OVER_BOTH = "interval over seeds and test images"
INTERVAL_LABELS = (OVER_SEEDS, OVER_IMAGES, OVER_BOTH)


@dataclass(frozen=True)
class Study:
    """Rows in the order of the report, the metric they are compared by, and what was chosen on validation.

    `definition` says how the metric is read, `rule` how rows are chosen by it on validation. `split` is where results
    are compared: test, or validation where a run did not open test, so that all rows are compared on the same split.
    Differences of less than `margin` do not matter; None: nobody said how many do not.
    `conditions` has one group per condition, `series` one per line of the figure (None but for a depth axis).
    `stages` are those of the protocol that the sweep is the last one of; None where it is a sweep by itself.
    `figure_inches` is the width that every figure is drawn for; None: a paper's column or its text, as each needs.
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
    margin: float | None
    figure_inches: float | None = None
    stages: Stages | None = None

    @property
    def metric_label(self) -> str:
        """The metric in words."""
        return self.definition.label

    @property
    def split_label(self) -> str:
        """The split on which results are compared, in words."""
        return SPLIT_LABELS[self.split]

    @cached_property
    def evidence(self) -> ImageEvidence:
        """The metric over the images of the test split."""
        runs = {run.identity: run for row in self.rows for run in row.runs.values()}
        return ImageEvidence(list(runs.values()), self.split, self.metric)

    def interval(self, row: Row) -> Interval | None:
        """The 95 % interval of the row's mean on the study's split: over seeds and images, or over seeds alone."""
        both = self.evidence.of(row)
        if both is None:
            return self.interval_over_seeds(row)
        bounds = self.definition.lower, self.definition.upper
        return both.interval(bounds=bounds, proportion=self.evidence.is_proportion(row))

    def interval_over_seeds(self, row: Row) -> Interval | None:
        """The 95 % t interval of the row's mean on the study's split over the seeds, on the same images."""
        scores = list(row.scores(self.split, self.metric).values())
        bounds = self.definition.lower, self.definition.upper
        return summary(scores, bounds=bounds, resolution=self.resolution).interval

    @cached_property
    def interval_label(self) -> str:
        """What the intervals of `interval` are over."""
        found = [both for row in self.rows if (both := self.evidence.of(row)) is not None]
        if not found:
            return OVER_SEEDS
        return OVER_BOTH if any(both.seeds > 1 for both in found) else OVER_IMAGES

    @cached_property
    def resolution(self) -> float:
        """The steps in which the metric moves on the study's split; 0 for one that does not count images."""
        return resolution(self.rows, self.split, self.metric)

    @cached_property
    def untested(self) -> int:
        """How many of the compared runs did not open the test split."""
        return sum(not run.is_tested for row in self.rows for run in row.runs.values())

    @cached_property
    def any_tested(self) -> bool:
        """Whether any of the compared runs opened the test split."""
        return any(run.is_tested for row in self.rows for run in row.runs.values())

    @cached_property
    def unvalidated(self) -> int:
        """How many of the compared runs have no validation split: they trained on it, too."""
        return sum(not run.is_validated for row in self.rows for run in row.runs.values())

    @cached_property
    def any_validated(self) -> bool:
        """Whether any of the compared runs has a validation split; otherwise nothing can be chosen."""
        return any(run.is_validated for row in self.rows for run in row.runs.values())

    @property
    def splits(self) -> tuple[str, ...]:
        """Validation and test, as far as any run has them."""
        there = {VALIDATION: self.any_validated or not self.any_tested, TEST: self.any_tested}
        return tuple(split for split, is_there in there.items() if is_there)

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
        """Digits after the point of the metric, as `digits_of` its values.

        A metric between two bounds, such as an accuracy, has at most four: smaller differences do not matter there.
        """
        digits = digits_of(y for row in self.rows for s in SPLIT_LABELS for y in row.scores(s, self.metric).values())
        is_bounded = None not in (self.definition.lower, self.definition.upper)
        return min(digits, DIGITS + 1) if is_bounded else digits

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
        return [row for row in sorted(rows, key=by_validation(self.rule)) if row.rank(self.rule) != NEVER]

    @property
    def best_run(self) -> LoadedRun:
        """The run that is best on validation; of equals the one that trains the fewest parameters.

        Raises:
            UsageError: no run has a finite value there.
        """
        found = self.best_of(run for row in self.rows if not row.dropped for run in row.runs.values())
        if found is None:
            why = f"no run has a finite {self.rule.metric} on validation"
            if not self.any_validated:
                why = "its runs trained on their validation images, so none of them is the best by validation; name one"
            raise usage_error("sweep", f"{self.sweep.folder}: {why}")
        return found

    def best_of(self, runs: Iterable[LoadedRun]) -> LoadedRun | None:
        """The best of some runs, chosen as `best_run` is; None: none of them can be chosen."""
        ranked = [(self.rule.rank(run.metrics.get(VALIDATION, {})), -run.trainable, run) for run in runs]
        can_be_chosen = [one for one in ranked if one[0] != NEVER]
        return max(can_be_chosen, key=lambda one: one[:2])[2] if can_be_chosen else None

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

    def is_in_the_running(self, row: Row) -> bool | None:
        """Whether no other row of its condition beats `row`, and no race has dropped it; None: it was not compared."""
        if row.dropped:
            return False
        groups = (group.running for group in self.conditions if any(row is other for other in group.rows))
        running = next(groups, None)
        if running is None or not any(row is other for other in running.compared):
            return None
        return not running.is_out(row)

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
        return best_of(nearest, self.rule)[0]


def make_study(
    sweep: LoadedSweep, metric: str | None = None, axis: str | None = None, margin: float | None = None
) -> Study:
    """Group the cells of a sweep into rows and choose among them on validation.

    Args:
        sweep: the sweep.
        metric: what the runs are evaluated by; by default what they selected their checkpoint by.
        axis: the axis of the figure; by default the one that counts layer groups, if there is one.
        margin: the difference that does not matter; by default that of the runs' configuration, and if they have none
            0.01 of a metric between 0 and 1.

    Raises:
        UsageError: no run is done, the sweep has no such metric or axis, or the margin is not above 0.
    """
    if not sweep.runs:
        raise usage_error("sweep", f"{sweep.folder}: no finished run yet, so there is nothing to report")
    if margin is not None and not 0 < margin < math.inf:
        raise usage_error("margin", f"a difference that does not matter is above 0 (got {margin:g})")
    notes: list[str] = []
    rule, definition = compared_metric(sweep.runs, metric, notes)
    axes = axes_of(sweep, axis)
    stages = load_stages(sweep.folder)
    rows = in_order([_with_drop(row, axes, stages) for row in rows_of(sweep, axes)], axes, rule)
    tested = all(run.is_tested for row in rows for run in row.runs.values())
    split = TEST if tested else VALIDATION
    groups = [
        group_of(members, rule, split, ", ".join(setting_labels(axes.conditions, members[0].condition)))
        for members in grouped(rows, lambda row: row.condition).values()
    ]
    series = [
        group_of(members, rule, split, line_label(axes, members[0]))
        for members in grouped(rows, lambda row: (row.condition, row.choice)).values()
        if axes.depth
    ]
    return Study(
        sweep,
        axes,
        rule.metric,
        definition,
        rule,
        split,
        tuple(rows),
        tuple(groups),
        tuple(series),
        tuple(notes),
        margin if margin is not None else _margin(sweep.runs, definition),
        stages=stages,
    )


def _margin(runs: Sequence[LoadedRun], definition: MetricDefinition) -> float | None:
    """The margin that the runs agree on; if none was given one point of a metric between 0 and 1."""
    given = {run.margin for run in runs}
    margin = given.pop() if len(given) == 1 else None
    if margin is None and (definition.lower, definition.upper) == (0.0, 1.0):
        return DEFAULT_MARGIN
    return margin


def _with_drop(row: Row, axes: Axes, stages: Stages | None) -> Row:
    """The row, marked as dropped where a race has dropped it."""
    place = {
        **axes.constant,
        **dict(zip(axes.conditions, row.condition, strict=True)),
        **dict(zip(axes.choices, row.choice, strict=True)),
        **({axes.depth: row.depth_value} if axes.depth else {}),
    }
    dropped = stages is not None and any(values.items() <= place.items() for values in stages.dropped)
    return replace(row, dropped=True) if dropped else row
