"""The x axis of a figure over depth: where its rows stand, and how it reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from thawline.reports.choosing import Group
from thawline.reports.figure_style import drawable
from thawline.reports.rows import Row
from thawline.reports.study import Study

_MOST_NAMED_GROUPS = 16


@dataclass(frozen=True)
class DepthScale:
    """Where rows stand along the x axis, and how that axis reads."""

    label: str
    positions: dict[int, float]
    ticks: tuple[tuple[float, str], ...]
    group_names: tuple[tuple[float, str], ...]
    logarithmic: bool
    spacing: float

    def beside(self, position: float, share: float) -> float:
        """The place beside `position` by a share of the distance between neighbours."""
        return position * 10 ** (share * self.spacing) if self.logarithmic else position + share * self.spacing


def depth_scale(study: Study, groups: Sequence[Group]) -> DepthScale:
    """Where the rows of some groups stand: by their layer groups, or by the values of another axis."""
    rows = [row for group in groups for row in group.rows]
    if study.axes.depth_is_layers:
        return _layer_scale(study, rows)
    axis = study.axes.depth or ""
    values = list(dict.fromkeys(row.depth_value or "" for row in rows))
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(value) for value in numbers):
        numbers = [float(index) for index in range(len(values))]
    at = dict(zip(values, numbers, strict=True))
    logarithmic = min(numbers) > 0 and max(numbers) / min(numbers) >= 50
    return DepthScale(
        label=drawable(axis),
        positions={id(row): at[row.depth_value or ""] for row in rows},
        ticks=tuple((position, drawable(value or "default", 14)) for value, position in at.items()),
        group_names=(),
        logarithmic=logarithmic,
        spacing=_spacing([math.log10(value) for value in numbers] if logarithmic else numbers),
    )


def _probe_name(rows: Sequence[Row]) -> str:
    """What the rows in which the head alone trains are called, on two lines."""
    names = {row.probe_name for row in rows if row.is_probe}
    return (names.pop() if len(names) == 1 else "head alone").replace(" ", "\n")


def _layer_scale(study: Study, rows: Sequence[Row]) -> DepthScale:
    totals = {len(run.groups) for row in rows for run in row.runs.values()}
    fraction = len(totals) > 1 and (study.axes.depth or "").endswith(".depth")
    positions = {}
    for row in rows:
        total = row.common(lambda run: len(run.groups))
        if row.depth is not None and total:
            positions[id(row)] = 100 * row.depth / total if fraction else float(row.depth)
    placed = sorted(set(positions.values()))
    names = {
        _probe_name(rows): {positions[id(row)] for row in rows if row.is_probe and id(row) in positions},
        "full fine-\ntuning": {positions[id(row)] for row in rows if row.is_full and id(row) in positions},
    }
    ends = {places.pop(): name for name, places in names.items() if len(places) == 1}
    ticks = tuple((x, f"{x:g}" + (f"\n{ends[x]}" if x in ends else "")) for x in placed)
    return DepthScale(
        label="share of the layer groups unfrozen (%)"
        if fraction
        else ", ".join(filter(None, ("unfrozen layer groups k", study.axes.how_counted))),
        positions=positions,
        ticks=ticks,
        group_names=() if fraction or not study.axes.how_counted else _group_names(rows, positions),
        logarithmic=False,
        spacing=_spacing(placed),
    )


def _group_names(rows: Sequence[Row], positions: dict[int, float]) -> tuple[tuple[float, str], ...]:
    """The last group thawed at each depth, where all lines agree on it and there is room."""
    names: dict[float, set[str]] = {}
    for row in rows:
        if id(row) in positions:
            reached = row.common(lambda run: run.reached)
            names.setdefault(positions[id(row)], set()).add("head only" if row.depth == 0 else reached or "")
    labelled = {x: next(iter(found)) for x, found in names.items() if len(found) == 1}
    fits = len(names) <= _MOST_NAMED_GROUPS and all(0 < len(name) <= 14 for name in labelled.values())
    return (
        tuple((x, drawable(name)) for x, name in sorted(labelled.items()))
        if fits and len(labelled) == len(names)
        else ()
    )


def _spacing(positions: Sequence[float]) -> float:
    ordered = sorted(set(positions))
    return min((b - a for a, b in itertools.pairwise(ordered)), default=1.0)
