"""The metric that a report compares runs by, as their records define it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from thawline.errors import nearest, usage_error
from thawline.records.metrics import MetricDefinition, SelectionRule, selection_rule
from thawline.reports.axes import few_of
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.split_names import TEST, VALIDATION


def compared_metric(
    runs: Sequence[LoadedRun], wanted: str | None, notes: list[str]
) -> tuple[SelectionRule, MetricDefinition]:
    """How rows are chosen, and how their metric is read: the one `wanted`, or the one that most runs selected by.

    Where the runs do not agree with that, `notes` gets a sentence.

    Raises:
        UsageError: no run has the metric, or the records do not define it in one way.
    """
    monitors = Counter(run.monitor.removeprefix(f"{VALIDATION}/") for run in runs)
    monitor = monitors.most_common(1)[0][0]
    if len(monitors) > 1:
        names = ", ".join(sorted(monitors))
        notes.append(f"The runs did not all select their checkpoint by the same metric: {names}.")
    known = {name: None for run in runs for split in (TEST, VALIDATION) for name in run.metrics.get(split, {})}
    metric = wanted or monitor
    if metric not in known:
        raise usage_error(
            "metric", f"no run has a metric {metric!r}{nearest(metric, known)} (there are: {few_of(known)})"
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
        raise usage_error("metric", f"the records define {metric!r} in different ways: {few_of(map(str, found))}")
    return found.pop()
