"""Strategies side by side: every seed a dot, the interval a bar, the best on validation first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from thawline.reports.axes import setting_labels
from thawline.reports.choosing import Group
from thawline.reports.document import capital
from thawline.reports.figure_style import (
    COLOURS,
    COLUMN_INCHES,
    IN_THE_RUNNING,
    NARROW_INCHES,
    OUT_OF_THE_RUNNING,
    PAGE_INCHES,
    drawable,
    inside,
)
from thawline.reports.rows import Row
from thawline.reports.split_names import VALIDATION
from thawline.reports.standing import beaten_caption
from thawline.reports.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_STRATEGIES = 30
_MOST_CONDITIONS = 4


def strategy_figure(study: Study) -> tuple[Figure, str]:
    """The figure of a study without a depth axis, and its caption."""
    from matplotlib.figure import Figure

    facets = study.conditions[:_MOST_CONDITIONS]
    order = _strategies(study)
    places = {strategy: len(order) - 1 - index for index, strategy in enumerate(order)}
    labels = {
        row.choice: drawable(", ".join(setting_labels(study.axes.choices, row.choice)) or "all") for row in study.rows
    }
    wide = len(facets) > 1 or max(len(labels[strategy]) for strategy in order) > 22
    width = study.figure_inches or (PAGE_INCHES if wide else COLUMN_INCHES)
    down = len(facets) if width < NARROW_INCHES else 1
    titled = 0.45 if down > 1 else 0.0
    size = (width, (0.21 * len(order) + titled) * down + 0.85)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, len(facets) // down, squeeze=False, sharey=True).ravel().tolist()
    for panel, group in zip(panels, facets, strict=True):
        _draw_strategies(panel, study, group, places)
        if down == 1 or group is facets[-1]:
            panel.set_xlabel(drawable(study.axis_label, 60))
        panel.set_xlim(inside(panel.get_xlim(), study.definition.lower, study.definition.upper))
        panel.xaxis.get_major_locator().set_params(nbins=4)
        if group.label:
            panel.set_title(drawable(group.label), loc="left")
    for panel in panels[:down]:
        panel.set_yticks([places[strategy] for strategy in order], [labels[strategy] for strategy in order])
        _embolden(panel, study, facets, places)
    _strategy_legend(figure, study)
    return figure, _strategy_caption(study, len(order), len(facets))


def _strategies(study: Study) -> list[tuple[str, ...]]:
    """The choices, best first by validation: by their mean place over the conditions."""
    ranks: dict[tuple[str, ...], list[int]] = {}
    for group in study.conditions:
        # Without a depth axis the rows of a condition stand in the order of their validation means.
        for index, row in enumerate(group.rows):
            ranks.setdefault(row.choice, []).append(index)
    order = sorted(ranks, key=lambda choice: sum(ranks[choice]) / len(ranks[choice]))
    return order[:_MOST_STRATEGIES]


def _draw_strategies(axes: Axes, study: Study, group: Group, places: dict[tuple[str, ...], int]) -> None:
    colour = COLOURS[0]
    for row in group.rows:
        if row.choice not in places:
            continue
        y = places[row.choice]
        scores = list(row.scores(study.split, study.metric).values())
        step = min(0.12, 0.4 / max(1, len(scores)))
        heights = [y + (index - (len(scores) - 1) / 2) * step for index in range(len(scores))]
        finite = [(x, h) for x, h in zip(scores, heights, strict=True) if math.isfinite(x)]
        if finite:
            xs, hs = zip(*finite, strict=True)
            axes.scatter(xs, hs, s=8, facecolors=colour, alpha=0.5, linewidths=0, zorder=3, clip_on=False)
        lost = [h for x, h in zip(scores, heights, strict=True) if not math.isfinite(x)]
        if lost:
            floor = axes.get_yaxis_transform()
            worst = 0.02 if study.mode == "max" else 0.98
            axes.plot([worst] * len(lost), lost, "x", color=colour, markersize=4, transform=floor, zorder=5)
        _draw_strategy_means(axes, study, row, y, chosen=group.chosen is row)
    axes.set_ylim(-0.6, len(places) - 0.4)
    axes.grid(axis="both")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_strategy_means(axes: Axes, study: Study, row: Row, y: int, *, chosen: bool) -> None:
    colour = COLOURS[0]
    result, validation = row.summary(study.split, study.metric), row.summary(VALIDATION, study.metric).mean
    if validation is not None and study.split != VALIDATION:
        axes.plot(
            [validation], [y], "D", markersize=3.4, markerfacecolor="white", color=COLOURS[4], zorder=2, clip_on=False
        )
    interval = study.interval(row)
    if interval is not None:
        axes.plot(interval, [y, y], color=colour, linewidth=1.1, solid_capstyle="butt", alpha=0.8, zorder=3)
    if result.mean is not None:
        out = study.is_in_the_running(row) is False
        look = OUT_OF_THE_RUNNING if out else IN_THE_RUNNING
        axes.plot([result.mean], [y], "o", color=colour, zorder=4, **{**look, "markersize": 4.2})
        if chosen:
            axes.plot(
                [result.mean], [y], "o", markersize=9, markerfacecolor="none", color=colour, zorder=5, clip_on=False
            )


def _embolden(axes: Axes, study: Study, facets: Sequence[Group], places: dict[tuple[str, ...], int]) -> None:
    chosen = {places[group.chosen.choice] for group in facets if group.chosen and group.chosen.choice in places}
    for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        if round(place) in chosen:
            label.set_fontweight("bold")


def _strategy_legend(figure: Figure, study: Study) -> None:
    from matplotlib.lines import Line2D

    colour, other = COLOURS[0], COLOURS[4]
    ring: dict[str, Any] = {"markerfacecolor": "none", "markersize": 8}
    mean: dict[str, Any] = {"linewidth": 1.1, "marker": "o", "markersize": 4.2}
    dots: dict[str, Any] = {"alpha": 0.5, "linestyle": "none", "marker": "o", "markersize": 2.8}
    diamond: dict[str, Any] = {"linestyle": "none", "marker": "D", "markersize": 3.4, "markerfacecolor": "white"}
    entries = [
        Line2D([], [], color=colour, label=f"{study.split_label}, mean, 95 % interval", **mean),
        Line2D([], [], color=colour, label=f"{study.split_label}, each seed", **dots),
    ]
    if any(study.is_in_the_running(row) is False for row in study.rows):
        hollow = {**mean, **OUT_OF_THE_RUNNING, "markersize": 4.2}
        entries.append(Line2D([], [], color=colour, label="mean, beaten by another", **hollow))
    if study.split != VALIDATION and study.any_validated:
        entries.append(Line2D([], [], color=other, label="validation", **diamond))
    if study.any_validated:
        entries.append(Line2D([], [], color=colour, linestyle="none", marker="o", label="chosen on validation", **ring))
    if any(row.summary(study.split, study.metric).diverged for row in study.rows):
        entries.append(Line2D([], [], color=colour, linestyle="none", marker="x", markersize=4, label="diverged"))
    figure.legend(handles=entries, loc="outside lower center", ncols=2, columnspacing=1.2)


def _strategy_caption(study: Study, strategies: int, facets: int) -> str:
    diamond = " Diamond: validation mean." if study.split != VALIDATION else ""
    one, many = study.axes.compared
    order, chosen = ", best on validation first", f"{diamond} Ring and bold: chosen on validation."
    if not study.any_validated:
        order, chosen = "", ""
    text = (
        f"{capital(study.metric_label)} of each {one}{order}. Filled: {study.split_label} mean over the seeds with its "
        f"95 % {study.interval_label}, every seed as a small dot.{chosen}"
    )
    text += beaten_caption(study)
    text += f" {capital(study.direction_note)}." if study.direction_note else ""
    every = len({row.choice for row in study.rows})
    if strategies < every:
        text += f" The {strategies} best of {every} {many} are drawn; all are in the tables."
    if facets < len(study.conditions):
        text += f" The first {facets} of {len(study.conditions)} conditions are drawn."
    return text
