"""The metric against depth: a line per strategy, every seed a dot, the interval a band, the choice a ring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thawline.reports.axes import setting_labels
from thawline.reports.choosing import Group
from thawline.reports.depth_scale import DepthScale, depth_scale
from thawline.reports.document import capital
from thawline.reports.escaping import plain
from thawline.reports.figure_style import (
    COLOURS,
    COLUMN_INCHES,
    GREY,
    IN_THE_RUNNING,
    NARROW_INCHES,
    OUT_OF_THE_RUNNING,
    PAGE_INCHES,
    apart,
    drawable,
    inside,
    look_of,
)
from thawline.reports.rows import Row, line_label
from thawline.reports.split_names import VALIDATION
from thawline.reports.standing import beaten_caption
from thawline.reports.study import Study
from thawline.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_FACETS = 9
_MOST_TICKS = 20


def depth_figure(study: Study) -> tuple[Figure, str]:
    """The figure of a study with a depth axis, and its caption."""
    from matplotlib.figure import Figure

    facets = _facets(study)
    lines = max(len(groups) for _, groups in facets)
    names = _line_names(study)
    wide = len(facets) > 1 or lines > 1
    scale = depth_scale(study, [group for _, groups in facets for group in groups])
    width = study.figure_inches or (PAGE_INCHES if wide else COLUMN_INCHES)
    narrow = width < NARROW_INCHES
    across = 1 if narrow else 2 if len(facets) == 4 else min(3, len(facets))
    down = math.ceil(len(facets) / across)
    height = (2.6 if scale.group_names and len(facets) == 1 else 2.2) if wide else 3.2
    # A legend below takes a line for every two of its entries, of which five are no lines' names.
    below = 0.16 * ((len(names) + 6) // 2) if narrow and wide else 0.0
    figure = Figure(figsize=(width, height * down + 0.2 + below), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel().tolist()
    for place, (title, groups) in enumerate(facets):
        _place_ticks(axes[place], scale)
        _draw_lines(axes[place], study, scale, groups, names)
        _dress(axes[place], study, title, groups, first=place % across == 0, last=place + across >= len(facets))
        if len(facets) == 1:
            _name_groups(axes[place], scale)
    if len(facets) == 1:
        axes[0].set_xlabel(scale.label)
    else:
        figure.supxlabel(scale.label, fontsize=8)
    for unused in axes[len(facets) :]:
        unused.set_visible(False)
    _legend(figure, axes[0], study, names, single=not wide, below=narrow)
    return figure, _depth_caption(study, facets, wide=wide)


def _facets(study: Study) -> list[tuple[str, list[Group]]]:
    """One panel per data set, for their scores are on different scales; otherwise one panel for all lines."""
    if not study.axes.data_sets:
        return [("", _best_lines(study, study.series))]
    panels = []
    for condition in study.conditions[:_MOST_FACETS]:
        lines = [group for group in study.series if group.condition == condition.condition]
        panels.append((condition.label, _best_lines(study, lines)))
    return panels


def _best_lines(study: Study, groups: Sequence[Group]) -> list[Group]:
    if len(groups) <= len(COLOURS):
        return list(groups)
    if not study.any_validated:
        return list(groups[: len(COLOURS)])
    best = study.best_first(group.chosen for group in groups if group.chosen)[: len(COLOURS)]
    return [group for group in groups if any(group.chosen is row for row in best)]


def _line_names(study: Study) -> dict[str, str]:
    """The lines of the figure, name to shown name, in the order of their colours."""
    shown = [group for _, groups in _facets(study) for group in groups]
    return {name: drawable(name) for name in dict.fromkeys(_line_name(study, group.rows[0]) for group in shown)}


def _line_name(study: Study, row: Row) -> str:
    # In panels of their own the conditions are titles; otherwise they are part of a line's name.
    if study.axes.data_sets:
        return ", ".join(setting_labels(study.axes.choices, row.choice))
    return line_label(study.axes, row)


def _draw_lines(axes: Axes, study: Study, scale: DepthScale, groups: Sequence[Group], names: dict[str, str]) -> None:
    order = list(names)
    for group in groups:
        style = order.index(_line_name(study, group.rows[0]))
        rows = sorted(
            (row for row in group.rows if id(row) in scale.positions), key=lambda row: scale.positions[id(row)]
        )
        dodge = (style - (len(order) - 1) / 2) * 0.08
        _draw_line(axes, study, scale, rows, style, dodge=dodge, alone=len(order) == 1)
        if group.chosen is not None and id(group.chosen) in scale.positions:
            _draw_choice(axes, study, scale, group.chosen, style, alone=len(order) == 1)


def _draw_line(
    axes: Axes, study: Study, scale: DepthScale, rows: Sequence[Row], style: int, *, dodge: float, alone: bool
) -> None:
    colour, marker = look_of(style)
    x = [scale.positions[id(row)] for row in rows]
    results = [row.summary(study.split, study.metric) for row in rows]
    validation = [row.summary(VALIDATION, study.metric).mean for row in rows]
    nan = math.nan
    bands = [_band(study, row) or (nan, nan) for row in rows]
    low, high = [band[0] for band in bands], [band[1] for band in bands]
    axes.fill_between(x, low, high, color=colour, alpha=0.16 if alone else 0.1, linewidth=0, zorder=1)
    if study.split != VALIDATION:
        means = [nan if mean is None else mean for mean in validation]
        axes.plot(x, means, color=colour, alpha=0.55, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
    for row, position in zip(rows, x, strict=True):
        _draw_seeds(axes, study, scale, row, scale.beside(position, dodge), colour, alone=alone)
    centre = [nan if summary.mean is None else summary.mean for summary in results]
    axes.plot(x, centre, color=colour, linewidth=1.3, zorder=4, clip_on=False)
    for out, look in ((False, IN_THE_RUNNING), (True, OUT_OF_THE_RUNNING)):
        points = [(a, b) for a, b, row in zip(x, centre, rows, strict=True) if _is_out(study, row) is out]
        if points:
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, color=colour, linestyle="none", marker=marker, zorder=5, **look)


def _band(study: Study, row: Row) -> Interval | None:
    """The interval that is drawn: over two runs it is so wide that it would press all else flat."""
    return None if row.summary(study.split, study.metric).n == 2 else study.interval(row)


def _is_out(study: Study, row: Row) -> bool:
    return study.is_in_the_running(row) is False


def _draw_seeds(
    axes: Axes, study: Study, scale: DepthScale, row: Row, position: float, colour: str, *, alone: bool
) -> None:
    # The open dots of validation stand beside the filled ones of test, where there is room.
    for split in (VALIDATION, study.split) if alone and study.split != VALIDATION else (study.split,):
        filled = split == study.split
        scores = list(row.scores(split, study.metric).values())
        places = _jittered(len(scores), position, scale)
        finite = [(x, y) for x, y in zip(places, scores, strict=True) if math.isfinite(y)]
        if finite:
            face = colour if filled else "white"
            xs, ys = zip(*finite, strict=True)
            look: dict[str, Any] = (
                {"s": 9, "alpha": 0.6, "linewidths": 0} if filled else {"s": 7, "alpha": 0.45, "linewidths": 0.6}
            )
            axes.scatter(xs, ys, facecolors=face, edgecolors=colour, zorder=3, clip_on=False, **look)
        lost = [x for x, y in zip(places, scores, strict=True) if not math.isfinite(y)]
        if filled and lost:
            floor = axes.get_xaxis_transform()
            worst = 0.03 if study.mode == "max" else 0.97
            axes.plot(lost, [worst] * len(lost), "x", color=colour, markersize=4, transform=floor, zorder=5)


def _jittered(n: int, position: float, scale: DepthScale) -> list[float]:
    # The same place for the same seed at every depth, so that a seed can be followed.
    step = min(0.09, 0.2 / (n - 1)) if n > 1 else 0.0
    return [scale.beside(position, (index - (n - 1) / 2) * step) for index in range(n)]


def _draw_choice(axes: Axes, study: Study, scale: DepthScale, row: Row, style: int, *, alone: bool) -> None:
    mean = row.summary(study.split, study.metric).mean
    x = scale.positions[id(row)]
    if alone:
        axes.axvline(x, color=GREY, linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
        right = x > sum(axes.get_xlim()) / 2
        place: dict[str, Any] = {
            "xycoords": axes.get_xaxis_transform(),
            "textcoords": "offset points",
            "xytext": (-3, 3) if right else (3, 3),
            "ha": "right" if right else "left",
            "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        }
        labelled = f"k = {row.depth}" if study.axes.depth_is_layers else drawable(row.depth_value or "default", 14)
        axes.annotate(labelled, (x, 0), color=GREY, fontsize=7.5, **place)
    if mean is not None:
        size = 9 if alone else 7.5
        axes.plot(
            [x],
            [mean],
            "o",
            markersize=size,
            markerfacecolor="none",
            color=look_of(style)[0],
            markeredgewidth=1.1,
            zorder=6,
            clip_on=False,
        )


def _place_ticks(axes: Axes, scale: DepthScale) -> None:
    if scale.logarithmic:
        axes.set_xscale("log")
    placed = list(scale.positions.values()) or [0.0]
    low, high = scale.beside(min(placed), -0.45), scale.beside(max(placed), 0.45)
    margin = 0.0 if scale.logarithmic else 0.03 * (max(placed) - min(placed))
    axes.set_xlim(min(low, min(placed) - margin), max(high, max(placed) + margin))
    if scale.logarithmic and len(scale.ticks) <= _MOST_TICKS:
        axes.set_xticks([x for x, _ in scale.ticks], [text for _, text in scale.ticks])
    elif not scale.logarithmic:
        kept = apart([x for x, _ in scale.ticks], max(placed) - min(placed))
        axes.set_xticks(kept, [dict(scale.ticks)[x] for x in kept])


def _dress(axes: Axes, study: Study, title: str, groups: Sequence[Group], *, first: bool, last: bool) -> None:
    axes.grid(axis="y")
    _bound(axes, study, groups)
    if title:
        axes.set_title(drawable(title), loc="left")
    if first:
        axes.set_ylabel(drawable(study.axis_label, 60))
    if last:
        axes.tick_params(labelbottom=True)


def _bound(axes: Axes, study: Study, groups: Sequence[Group]) -> None:
    """Let runs and bands set the y axis, which does not leave the metric's bounds."""
    rows = [row for group in groups for row in group.rows]
    scores = [
        y for row in rows for split in (VALIDATION, study.split) for y in row.scores(split, study.metric).values()
    ]
    finite = [y for y in scores if math.isfinite(y)]
    if not finite:
        return
    bands = [band for row in rows if (band := _band(study, row))]
    finite += [edge for band in bands for edge in band]
    span = max(max(finite) - min(finite), 0.01 * max(abs(max(finite)), 1e-9))
    limits = min(finite) - 0.05 * span, max(finite) + 0.05 * span
    axes.set_ylim(inside(limits, study.definition.lower, study.definition.upper))


def _name_groups(axes: Axes, scale: DepthScale) -> None:
    if not scale.group_names:
        return
    above = axes.secondary_xaxis("top")
    names = dict(scale.group_names)
    kept = apart(list(names), max(names) - min(names))
    above.set_xticks(kept, [names[x] for x in kept])
    above.tick_params(length=0, pad=1, labelsize=6.5, labelcolor=GREY, rotation=40)
    for label in above.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    above.spines["top"].set_visible(False)
    above.set_xlabel("last layer group thawed", fontsize=6.5, color=GREY, labelpad=2)


def _legend(figure: Figure, axes: Axes, study: Study, names: dict[str, str], *, single: bool, below: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    base = COLOURS[0] if len(names) < 2 else GREY
    entries: list[Any] = []
    if len(names) > 1:
        for style, name in enumerate(names.values()):
            colour, marker = look_of(style)
            entries.append(Line2D([], [], color=colour, marker=marker, markersize=3.5, label=name))
    entries.append(
        Line2D([], [], color=base, linewidth=1.3, marker="o", markersize=3.2, label=f"{study.split_label}, mean")
    )
    if any(_is_out(study, row) for row in study.rows):
        look: dict[str, Any] = {"linewidth": 1.3, "marker": "o", **OUT_OF_THE_RUNNING}
        entries.append(Line2D([], [], color=base, label="mean, beaten by another", **look))
    entries.append(Patch(facecolor=base, alpha=0.2, linewidth=0, label=f"{study.split_label}, 95 % interval"))
    dots: dict[str, Any] = {"alpha": 0.6, "linestyle": "none", "marker": "o", "markersize": 3}
    entries.append(Line2D([], [], color=base, label=f"{study.split_label}, each seed", **dots))
    beside = study.split != VALIDATION and study.any_validated
    if beside:
        dashed: dict[str, Any] = {"alpha": 0.55, "linewidth": 0.9, "linestyle": (0, (4, 2))}
        entries.append(Line2D([], [], color=base, label="validation, mean", **dashed))
    if beside and single:
        open_dots: dict[str, Any] = {"markerfacecolor": "white", "markersize": 2.8, "markeredgewidth": 0.6}
        entries.append(
            Line2D(
                [], [], color=base, linestyle="none", marker="o", label="validation, each seed", alpha=0.6, **open_dots
            )
        )
    ring: dict[str, Any] = {"markerfacecolor": "none", "markersize": 7, "markeredgewidth": 1.1}
    if study.any_validated:
        entries.append(Line2D([], [], color=base, linestyle="none", marker="o", label="chosen on validation", **ring))
    if any(row.summary(study.split, study.metric).diverged for row in study.rows):
        entries.append(Line2D([], [], color=base, linestyle="none", marker="x", markersize=4, label="diverged"))
    if below:
        figure.legend(handles=entries, loc="outside lower center", ncols=2, columnspacing=1.2)
    else:
        figure.legend(handles=entries, loc="outside right center")


def _depth_caption(study: Study, facets: Sequence[tuple[str, list[Group]]], *, wide: bool) -> str:
    along = "the number of unfrozen layer groups" if study.axes.depth_is_layers else plain(study.axes.depth or "", 60)
    open_dots = "" if wide else ", its seeds as open dots"
    chosen = study.any_validated
    dashed = f" Dashed: validation mean{open_dots}." if study.split != VALIDATION else ""
    text = (
        f"{capital(study.metric_label)} against {along}. Solid: {study.split_label} mean over the seeds with its 95 % "
        f"{study.interval_label}, every seed as a dot.{f'{dashed} Ring: chosen on validation.' if chosen else ''}"
    )
    text += beaten_caption(study)
    text += f" {capital(study.direction_note)}." if study.direction_note else ""
    if any(row.summary(study.split, study.metric).n == 2 for row in study.rows):
        text += " Intervals over two seeds are not drawn; they are in the tables."
    drawn = sum(len(groups) for _, groups in facets)
    if drawn < len(study.series):
        best = f"{drawn} best by validation" if chosen else f"first {drawn}"
        text += f" Of {len(study.series)} lines the {best} are drawn; all are in the tables."
    return text
