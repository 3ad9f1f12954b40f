"""The sweep's table, for reading and for computing on, and the rows of its runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from thawline.reports.axes import setting_labels
from thawline.reports.changes import mean_change, networks
from thawline.reports.document import DASH, DIGITS, Column, Line, Table, columns, count, interval, number, seconds
from thawline.reports.escaping import command_line, plain
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.loading import Cell, LoadedSweep
from thawline.reports.rows import Row
from thawline.reports.split_names import SPLIT_LABELS, TEST, VALIDATION
from thawline.reports.study import INTERVAL_LABELS, Study
from thawline.statistics import Summary

CHOSEN = "★"
CHOSEN_IN_LINE = "○"
DROPPED = "†"
HEAD_ONLY = "head only"
# More test sets than these get a table of their own.
MOST_EXTRA_COLUMNS = 3
LONGEST_NAME = 40
_INTERVAL = "95 % interval"
_FIRST_TO_GO = (_INTERVAL, "share %", "seconds", "groups trained", "trainable", "runs")
_SHORTEST_NAME = 8
_GAP = 2


def ties_in_words(study: Study) -> str:
    """How equals are told apart when something is chosen on validation."""
    fewest = "the one that trains the fewest parameters is taken"
    if study.tie_break_label is None:
        return f"of equals {fewest}"
    return f"ties are broken by the smaller {study.tie_break_label} on validation, and of equals in that {fewest}"


def short(text: str | None) -> str:
    """A name within a sentence or a table: on one line, and not longer than it can take."""
    return plain(text or "", LONGEST_NAME)


def shown_axes(study: Study) -> dict[str, str]:
    """The axes that tell the rows of a table apart, with their headings: short where that is clear."""
    axes = [*study.axes.conditions, *study.axes.choices]
    if study.axes.depth and not study.axes.depth_is_layers:
        axes.append(study.axes.depth)
    ends = [axis.rpartition(".")[2] for axis in axes]
    return {axis: end if ends.count(end) == 1 else axis for axis, end in zip(axes, ends, strict=True)}


def axis_values(study: Study, row: Row) -> dict[str, str]:
    """The row's value on each axis but the seeds."""
    axes = [*study.axes.conditions, *study.axes.choices, *([study.axes.depth] if study.axes.depth else [])]
    values = [*row.condition, *row.choice, *([row.depth_value or ""] if study.axes.depth else [])]
    return dict(zip(axes, values, strict=True))


def mean_sd(summary: Summary, digits: int = DIGITS) -> str:
    """Mean and standard deviation as a table shows them, marked where diverged runs are left out of it."""
    if summary.mean is None:
        return f"{DASH} ({summary.count} diverged)" if summary.count else DASH
    spread = f" ± {number(summary.sd, digits)}" if summary.sd is not None else ""
    text = number(summary.mean, digits) + spread
    return f"{text} ({summary.diverged} of {summary.count} diverged)" if summary.diverged else text


def runs_told(row: Row) -> str:
    """How many runs a row has, of how many cells, and how many diverged."""
    cells = len(row.cells) - row.repeated - row.reopened
    text = str(len(row.runs)) if len(row.runs) == cells else f"{len(row.runs)} of {cells}"
    return f"{text}, {row.diverged} diverged" if row.diverged else text


def trained_groups(row: Row) -> str:
    """Which layer groups trained: ``from layer3``, ``up to layer1``, ``layer2 alone``."""
    return short(row.common(_span)) or DASH


def _span(run: LoadedRun) -> str:
    places = [place for place, share in enumerate(run.trained) if share > 0]
    if not places:
        return HEAD_ONLY
    first, last, count = places[0], places[-1], len(places)
    if count == len(run.groups):
        return "all"
    if count == 1 and 0 < first < len(run.groups) - 1:
        return f"{run.groups[first]} alone"
    if count != last - first + 1:
        return f"{count} groups, {run.groups[first]} to {run.groups[last]}"
    if last == len(run.groups) - 1:
        return f"from {run.groups[first]}"
    return f"up to {run.groups[last]}" if first == 0 else f"{run.groups[first]} to {run.groups[last]}"


def depth_told(study: Study, row: Row) -> str:
    """The number of layer groups that trained; of a row without runs, what its cells ask for."""
    if row.depth is None:
        return short(row.depth_value) or DASH if study.axes.depth_is_layers else DASH
    return f"{row.depth:g}"


def share(row: Row) -> str:
    """Trainable parameters in per cent of all, with the digits that a small share needs."""
    value = row.mean_of(lambda run: run.share)
    if value is None:
        return DASH
    return number(100 * value, 1 if value >= 0.01 else 3)


def mark(study: Study, row: Row) -> str:
    """The mark of what validation chose, and of what a race dropped."""
    if row.dropped:
        return DROPPED
    if study.is_chosen(row):
        return CHOSEN
    return CHOSEN_IN_LINE if study.is_chosen_in_series(row) else ""


def result_table(study: Study, most: int | None = None) -> Table:
    """The table of the sweep: a line per row, what trained, and validation and test as mean and standard deviation."""
    axes = shown_axes(study)
    extra = study.side_tests if len(study.side_tests) <= MOST_EXTRA_COLUMNS else ()
    headings = ["", *axes.values(), "k", "groups trained", "trainable", "share %"]
    # The interval stands behind the split that it is of.
    before = study.splits if study.split == TEST else (VALIDATION,)
    behind = (TEST, *extra) if study.any_tested and TEST not in before else extra
    headings += [*(f"{split} {study.metric}" for split in before), _INTERVAL]
    headings += [*(f"{split} {study.metric}" for split in behind), "runs", "seconds"]
    lines = []
    for row in study.rows[:most]:
        place = axis_values(study, row)
        entries = [
            mark(study, row),
            *(short(place[axis]) or "default" for axis in axes),
            depth_told(study, row) + (" in part" if any(run.in_part for run in row.runs.values()) else ""),
            trained_groups(row),
            count(row.mean_of(lambda run: run.trainable)),
            share(row),
            *(mean_sd(row.summary(split, study.metric), study.digits) for split in before),
            interval(study.interval(row), study.digits),
            *(mean_sd(row.summary(split, study.metric), study.digits) for split in behind),
            runs_told(row),
            seconds(row.mean_of(lambda run: run.total_seconds)),
        ]
        lines.append(Line(tuple(entries), strong=study.is_chosen(row)))
    lines += _censored(study, list(axes), len(headings)) if most is None or len(lines) < most else []
    left = (*range(len(axes) + 1), len(axes) + 2)
    return Table(columns(*headings, left=left), tuple(lines), note=_how_to_read(study, most))


def _censored(study: Study, axes: Sequence[str], width: int) -> list[Line]:
    """A line for each setting that a race dropped and that was not run again: it has no number on these seeds."""
    if study.stages is None:
        return []
    shown = [{**study.axes.constant, **axis_values(study, row)} for row in study.rows]
    lines = []
    for candidate in study.stages.manifest.candidates:
        place = {key.lstrip("+"): value for key, value in candidate.values.items()}
        if candidate.drop is None or any(place.items() <= values.items() for values in shown):
            continue
        # What is left may be the same in every row; what was dropped differs from it.
        others = [key for key in place if key not in axes]
        if study.axes.depth_is_layers:
            depth = place.get(study.axes.depth or "", "")
        else:
            depth = ", ".join(setting_labels(others, [place[key] for key in others]))
        names = [DROPPED, *(short(place.get(axis, "")) or "default" for axis in axes), short(depth) or DASH]
        dashes = [DASH] * (width - len(names) - 2)
        lines.append(Line((*names, *dashes, f"dropped at {candidate.drop.seeds} seeds", DASH)))
    return lines


def _how_to_read(study: Study, most: int | None) -> str:
    told = ""
    if study.any_validated:
        told = f"{CHOSEN} best validation mean" + (" of its condition" if len(study.conditions) > 1 else "")
        if len(study.series) > len(study.conditions):
            told += f"; {CHOSEN_IN_LINE} best of its line of the figure"
        told += ". "
    told += f"Mean ± standard deviation over the runs.{_interval_note(study.interval_label, study.split_label)}"
    if study.stages is not None and study.stages.dropped:
        told += f" {DROPPED} dropped by the race: never chosen, and without an interval unless it was audited."
    if study.direction_note:
        told += f" {study.metric}: {study.metric_label}, {study.direction_note}."
    if most is not None and len(study.rows) > most:
        told += f" The first {most} of {len(study.rows)} rows; all of them are in table.csv."
    return told


def _interval_note(interval_label: str, split_label: str) -> str:
    return f" The interval is the 95 % {interval_label} of the {split_label} mean."


def fitted(table: Table, width: int, first_to_go: Sequence[str] = _FIRST_TO_GO) -> Table:
    """The table for a terminal of `width` characters.

    While it is too wide, a column with the same entry in every line is said once in the note, then those of
    `first_to_go` go in their order, and at last names are shortened in the middle. `table` itself where it fits.
    """
    kept = list(range(len(table.columns)))
    said: list[str] = []
    for place in [place for place in kept if table.columns[place].heading not in ("", "k")]:
        entries = {line.entries[place] for line in table.lines}
        heading = table.columns[place].heading
        if _width(table, kept) > width and len(table.lines) > 1 and len(entries) == 1 and "±" not in str(entries):
            kept.remove(place)
            said.append(f"{heading} {entries.pop()}")
    for heading in first_to_go:
        if _width(table, kept) > width:
            kept = [place for place in kept if table.columns[place].heading != heading]
    lines = [Line(tuple(line.entries[place] for place in kept), line.strong) for line in table.lines]
    shown = tuple(table.columns[place] for place in kept)
    note = note_of(shown, table.note)
    if said:
        note = f"{note} In every row: {', '.join(said)}.".lstrip()
    return _with_short_names(Table(shown, tuple(lines), table.caption, note), width)


def note_of(shown: Sequence[Column], note: str) -> str:
    """The note of a table of which these columns are shown: it speaks of no interval where there is none."""
    if all(column.heading != _INTERVAL for column in shown):
        for interval_label, split_label in itertools.product(INTERVAL_LABELS, SPLIT_LABELS.values()):
            note = note.replace(_interval_note(interval_label, split_label), "")
    return note


def _with_short_names(table: Table, width: int) -> Table:
    every = list(range(len(table.columns)))
    names = [place for place in every if table.columns[place].align == "left" and table.columns[place].heading]
    while names and _width(table, every) > width:
        widest = max(names, key=lambda place: max(len(line.entries[place]) for line in table.lines))
        longest = max(len(line.entries[widest]) for line in table.lines)
        if longest <= _SHORTEST_NAME:
            break
        lines = [
            Line(
                (*line.entries[:widest], plain(line.entries[widest], longest - 1), *line.entries[widest + 1 :]),
                line.strong,
            )
            for line in table.lines
        ]
        table = Table(table.columns, tuple(lines), table.caption, table.note)
    return table


def _width(table: Table, places: Sequence[int]) -> int:
    widths = [
        max([len(table.columns[place].heading), *(len(line.entries[place]) for line in table.lines)])
        for place in places
    ]
    return sum(widths) + _GAP * (len(widths) - 1)


def table_rows(study: Study) -> list[dict[str, object]]:
    """The rows of ``table.csv``: numbers in full precision, None where there is none."""
    splits = (*study.splits, *study.further_tests)
    return [_table_row(study, row, splits) for row in study.rows]


def layer_rows(study: Study) -> list[dict[str, object]]:
    """The rows of ``layers.csv``: what training changed, for each row of the table and each of its layer groups."""
    rows: list[dict[str, object]] = []
    for groups, members in networks(study).items():
        for row in members:
            for place, group in enumerate(groups):
                means = {
                    "drift": mean_change(row, place, lambda change: change.drift),
                    "relative_drift": mean_change(row, place, lambda change: change.relative),
                    "cka": mean_change(row, place, lambda change: change.cka),
                }
                where = {"layer_group": place, "name": group}
                rows.append({**axis_values(study, row), **where, **means, "runs": len(row.usable)})
    return rows


def _table_row(study: Study, row: Row, splits: tuple[str, ...]) -> dict[str, object]:
    values: dict[str, object] = {
        **axis_values(study, row),
        "k": row.depth,
        "layer_groups": row.common(lambda run: len(run.groups)),
        "groups_trained": trained_groups(row) if row.runs else None,
        "trainable_parameters": _whole(row.mean_of(lambda run: run.trainable)),
        "total_parameters": _whole(row.mean_of(lambda run: run.total)),
        "trainable_share": row.mean_of(lambda run: run.share),
    }
    for split in splits:
        summary = row.summary(split, study.metric)
        low, high = (study.interval(row) if split == study.split else summary.interval) or (None, None)
        name = f"{split}_{study.metric}"
        values |= {f"{name}_mean": summary.mean, f"{name}_sd": summary.sd}
        values |= {f"{name}_low": low, f"{name}_high": high, f"{name}_n": summary.n}
    return values | {
        "cells": len(row.cells),
        "runs": len(row.runs),
        "missing": row.missing,
        "diverged": row.diverged,
        "total_seconds_mean": row.mean_of(lambda run: run.total_seconds),
        "train_seconds_mean": row.mean_of(lambda run: run.train_seconds),
        "peak_memory_bytes_mean": row.mean_of(lambda run: run.peak_memory_bytes),
        "chosen": study.is_chosen(row),
        "chosen_in_line": study.is_chosen_in_series(row),
        "in_the_running": study.is_in_the_running(row),
    }


def run_rows(sweep: LoadedSweep) -> list[dict[str, object]]:
    """The rows of ``runs.csv``: one for each cell of the sweep, also for one that has no record."""
    names = [
        (split, metric)
        for split in _in_order({split for run in sweep.runs for split in run.metrics})
        for metric in sorted({metric for run in sweep.runs for metric in run.metrics.get(split, {})})
    ]
    return [_run_row(cell, names) for cell in sweep.cells]


def _run_row(cell: Cell, metrics: Sequence[tuple[str, str]]) -> dict[str, object]:
    run = cell.run
    end = {"identity": cell.identity, "command": command_line(cell.command)}
    if run is None:
        return {**cell.values, "status": cell.problem, **end}
    return {
        **cell.values,
        "status": "done",
        "diverged": run.diverged,
        "divergence": run.divergence,
        "k": run.depth,
        "layer_groups": len(run.groups),
        "groups_trained": _span(run),
        "trainable_parameters": run.trainable,
        "total_parameters": run.total,
        "trainable_share": run.share,
        "epochs": run.epochs,
        **{f"{split}_{metric}": run.value(split, metric) for split, metric in metrics},
        "total_seconds": run.total_seconds,
        "cpu_seconds": run.cpu_seconds,
        "train_seconds": run.train_seconds,
        "peak_memory_bytes": run.peak_memory_bytes,
        **end,
    }


def _in_order(splits: set[str]) -> list[str]:
    first = {VALIDATION: 0, TEST: 1}
    return sorted(splits, key=lambda split: (first.get(split, 2), split))


def _whole(value: float | None) -> int | float | None:
    return int(value) if value is not None and value == int(value) else value


def place_told(values: Mapping[str, str]) -> str:
    """A cell by its values on all axes: ``k=3, seed=0``."""
    return ", ".join(f"{axis.rpartition('.')[2]}={short(value) or 'default'}" for axis, value in values.items())
