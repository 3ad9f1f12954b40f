"""What the page's charts and its table of runs are drawn from: one block of JSON, made of the study alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from thawline.records.names import RECORD_FILE
from thawline.reports.axes import setting_labels
from thawline.reports.escaping import plain
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.loading import Cell
from thawline.reports.page.confusions import confusions
from thawline.reports.page.details import changes, curves
from thawline.reports.rows import Row
from thawline.reports.split_names import SPLIT_LABELS
from thawline.reports.study import Study
from thawline.reports.tables import axis_values, trained_groups

LONGEST_NAME = 80
COSTS: Mapping[str, tuple[str, Callable[[LoadedRun], float]]] = {
    "trainable": ("trainable parameters", lambda run: run.trainable),
    "seconds": ("seconds in all", lambda run: run.total_seconds),
    "training": ("seconds of training", lambda run: run.train_seconds),
    "memory": ("peak memory, MiB", lambda run: run.peak_memory_bytes / 2**20),
}
"""What a run costs, by the name of the choice: its label, and the number of a run."""


def page_data(study: Study, folder: Path) -> dict[str, Any]:
    """Everything that the page draws, as JSON takes it: no NaN, names on one line and cut.

    Numbers of runs and rows are those of the records and of the report's statistics, in full precision. Arrays of
    `scores` and `values` have an entry for each row and each run.

    Args:
        study: the study.
        folder: where the page will lie; links to records start there.
    """
    shown = _Shown(study)
    found: dict[str, Any] = _finite(
        {
            "metric": study.metric,
            "split": study.split,
            "metrics": [
                {"name": name, "label": plain(definition.label, LONGEST_NAME)}
                | {"direction": definition.direction, "lower": definition.lower, "upper": definition.upper}
                for name, definition in shown.definitions.items()
            ],
            "splits": {split: SPLIT_LABELS.get(split) or plain(split, LONGEST_NAME) for split in shown.splits},
            "costs": {name: label for name, (label, _) in COSTS.items()},
            "axis": _axis(study),
            "compared": study.axes.compared,
            "lines": list(shown.lines.values()),
            "facets": list(shown.facets.values()),
            "rows": [_row(study, row, shown) for row in study.rows],
            "scores": {
                split: {metric: _scores(study, split, metric) for metric in shown.metrics_of(split)}
                for split in shown.splits
            },
            "runs": [_run(one, folder) for one in shown.runs],
            "values": {
                split: {metric: [_value(one.cell.run, split, metric) for one in shown.runs] for metric in metrics}
                for split, metrics in ((split, shown.metrics_of(split)) for split in shown.splits)
            },
            "curves": curves(study.metric, [one.cell.run if one.counts else None for one in shown.runs]),
            "changes": changes(study),
            "confusions": confusions(study),
        }
    )
    return found


@dataclass(frozen=True)
class _Placed:
    """A cell of a row of the report; it counts where its run enters the row's mean."""

    row: int
    cell: Cell
    counts: bool
    seeds: Mapping[str, str]


@dataclass(frozen=True)
class _Shown:
    """What is shown of a study: the lines and panels of its charts, its splits, metrics and runs."""

    study: Study

    @cached_property
    def _panel_axes(self) -> tuple[str, ...]:
        """Axes of choice that make panels of their own: backbones, where something else is compared on each."""
        choices = self.study.axes.choices
        found = tuple(axis for axis in choices if axis.partition(".")[0] == "backbone")
        return found if self.study.axes.depth or len(found) < len(choices) else ()

    def line_of(self, row: Row) -> str:
        """The row's line: what is compared, without what has panels of its own."""
        pairs = zip(self.study.axes.choices, row.choice, strict=True)
        kept = [(axis, value) for axis, value in pairs if axis not in self._panel_axes]
        return _labelled(kept)

    def facet_of(self, row: Row) -> str:
        """The row's panel: what it is tried on, and its backbone."""
        pairs = zip(self.study.axes.choices, row.choice, strict=True)
        conditions = list(zip(self.study.axes.conditions, row.condition, strict=True))
        return _labelled(conditions + [(axis, value) for axis, value in pairs if axis in self._panel_axes])

    @cached_property
    def lines(self) -> dict[str, str]:
        """The lines in their order, with the names they are shown by."""
        return {line: plain(line, LONGEST_NAME) for line in map(self.line_of, self.study.rows)}

    @cached_property
    def facets(self) -> dict[str, str]:
        """The panels in their order, with the names they are shown by."""
        return {facet: plain(facet, LONGEST_NAME) for facet in map(self.facet_of, self.study.rows)}

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Validation, test, and the further test sets but for corrupted copies, which have tables of their own."""
        return (*self.study.splits, *self.study.side_tests)

    @cached_property
    def definitions(self) -> dict[str, Any]:
        """How each metric is read, the one that the report compares by first."""
        found = {self.study.metric: self.study.definition}
        for run in self.study.sweep.runs:
            for split in self.splits:
                for name in run.metrics.get(split, {}):
                    if name not in found and name in run.definitions:
                        found[name] = run.definitions[name]
        return found

    def metrics_of(self, split: str) -> list[str]:
        """The metrics that any run has of a split."""
        there = {name for run in self.study.sweep.runs for name in run.metrics.get(split, {})}
        return [name for name in self.definitions if name in there]

    @cached_property
    def runs(self) -> tuple[_Placed, ...]:
        """Every cell once, in the order of the rows."""
        seen: set[str] = set()
        found = []
        for place, row in enumerate(self.study.rows):
            counted = {run.identity for run in row.runs.values()}
            for cell in row.cells:
                if cell.identity in seen:
                    continue
                seen.add(cell.identity)
                seeds = {axis: cell.values[axis] for axis in self.study.axes.replicates}
                found.append(_Placed(place, cell, cell.identity in counted, _named(seeds)))
        return tuple(found)


def _labelled(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(setting_labels([axis for axis, _ in pairs], [value for _, value in pairs]))


def _named(values: Mapping[str, str]) -> dict[str, str]:
    """Values by the last word of their axis, where that names one axis alone."""
    ends = [axis.rpartition(".")[2] for axis in values]
    return {
        plain(end if ends.count(end) == 1 else axis, LONGEST_NAME): plain(value or "default", LONGEST_NAME)
        for end, (axis, value) in zip(ends, values.items(), strict=True)
    }


def _axis(study: Study) -> dict[str, Any] | None:
    """The axis of depth: its title, and whether its values are counts; None where the sweep has none."""
    axes = study.axes
    if axes.depth is None:
        return None
    if not axes.depth_is_layers:
        return {"title": plain(axes.depth, LONGEST_NAME), "counts": False}
    return {"title": ", ".join(filter(None, ("thawed layer groups", axes.how_counted))), "counts": True}


def _row(study: Study, row: Row, shown: _Shown) -> dict[str, Any]:
    counts = study.axes.depth_is_layers
    return {
        "label": plain(row.label, LONGEST_NAME),
        "line": list(shown.lines).index(shown.line_of(row)),
        "facet": list(shown.facets).index(shown.facet_of(row)),
        "x": row.depth if counts else plain(row.depth_value or row.label, LONGEST_NAME),
        "trains": trained_groups(row) if row.runs else "",
        "settings": _named(axis_values(study, row)),
        "chosen": study.is_chosen(row),
        "chosen_in_line": study.is_chosen_in_series(row),
        "costs": {name: row.mean_of(of) for name, (_, of) in COSTS.items()},
        "cells": len(row.cells),
        "runs": len(row.runs),
        "diverged": row.diverged,
    }


def _scores(study: Study, split: str, metric: str) -> dict[str, list[Any]]:
    """Means and intervals of the rows; of what the study compares also which rows another one beats."""
    summaries = [row.summary(split, metric) for row in study.rows]
    compared = (split, metric) == (study.split, study.metric)
    intervals = [
        study.interval(row) if compared else summary.interval
        for row, summary in zip(study.rows, summaries, strict=True)
    ]
    return {
        "mean": [one.mean for one in summaries],
        "sd": [one.sd for one in summaries],
        "low": [bounds[0] if bounds else None for bounds in intervals],
        "high": [bounds[1] if bounds else None for bounds in intervals],
        "n": [one.n for one in summaries],
        "beaten": [compared and study.is_in_the_running(row) is False for row in study.rows],
    }


def _run(placed: _Placed, folder: Path) -> dict[str, Any]:
    """A cell of the sweep as the table of runs shows it."""
    run = placed.cell.run
    told: dict[str, Any] = {
        "row": placed.row,
        "identity": plain(placed.cell.identity, LONGEST_NAME),
        "seeds": dict(placed.seeds),
    }
    if run is None:
        return told | {"state": "missing", "note": plain(placed.cell.problem, 200)}
    reasons = [*([run.divergence] if run.divergence else []), *run.warnings]
    # Of many runs every word counts: what is so in nearly all of them is left out.
    told |= {"note": plain("; ".join(reasons), 200)} if reasons else {}
    told |= {} if placed.counts else {"repeats": True}
    return told | {
        "state": "diverged" if run.diverged else "done",
        "record": _link(run.folder / RECORD_FILE, folder),
        "epochs": run.epochs,
        "costs": {name: of(run) for name, (_, of) in COSTS.items()},
    }


def _link(file: Path, folder: Path) -> str:
    """The way from the page to a file: a relative address, in which no character means anything else."""
    return quote(Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix(), errors="replace")


def _value(run: LoadedRun | None, split: str, metric: str) -> float | None:
    return None if run is None else run.metrics.get(split, {}).get(metric)


def _finite(value: Any) -> Any:
    """`value` with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
