"""Tuning curves: what the best of n trials reaches, all settings together, and each with its band."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thawline.reports.document import capital
from thawline.reports.figure_style import (
    COLOURS,
    COLUMN_INCHES,
    MARKERS,
    NARROW_INCHES,
    PAGE_INCHES,
    drawable,
    inside,
)
from thawline.reports.study import Study
from thawline.reports.tuning_curves import ALPHA, Tuned, TunedGroup, budgets_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MOST_CURVES = len(COLOURS)
_LIGHT = "#BBBBBB"
_LETTERS_TO_THE_INCH = 9
"""Of a panel's title, with the room that the numbers of its axis take."""


def tuning_figure(study: Study, group: TunedGroup) -> tuple[Figure, str]:
    """The figure of the tuning curves of one condition, and its caption."""
    from matplotlib.figure import Figure

    tuned = group.tuned[:MOST_CURVES]
    if len(tuned) == 1:
        figure = Figure(figsize=(study.figure_inches or COLUMN_INCHES, 2.3), layout="constrained")
        _draw_bands([figure.subplots()], study, group, tuned)
        _label_axes(figure.axes[0], study, group)
        return figure, _caption(study, group, len(tuned))
    width = study.figure_inches or PAGE_INCHES
    narrow = width < NARROW_INCHES
    across = min(2, len(tuned)) if narrow else len(tuned) if len(tuned) <= 3 else math.ceil(len(tuned) / 2)
    down = math.ceil(len(tuned) / across)
    # Where there is no room beside each other, the panels stand below.
    tall = 1.35 * down + 0.5
    figure = Figure(figsize=(width, 2.4 + tall if narrow else max(2.6, tall)), layout="constrained")
    if narrow:
        halves = figure.subfigures(2, 1, squeeze=False, height_ratios=(2.4, tall))
    else:
        halves = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.0, 0.5 * across), wspace=0.02)
    first, second = halves.ravel().tolist()
    together = first.subplots()
    for place, item in enumerate(tuned):
        _draw_curve(together, item, place, marker=MARKERS[place])
    _label_axes(together, study, group)
    together.legend(loc="best")
    panels = second.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    for panel in panels[len(tuned) :]:
        panel.set_visible(False)
    drawn = panels[: len(tuned)]
    # The legend of the first part has the whole names.
    wide = width if narrow else width * 0.5 * across / (1.0 + 0.5 * across)
    most = max(8, int(_LETTERS_TO_THE_INCH * wide / across))
    _draw_bands(drawn, study, group, tuned)
    for place, (panel, item) in enumerate(zip(drawn, tuned, strict=True)):
        panel.set_title(drawable(item.label, most), loc="left", color=COLOURS[place])
        if place >= len(tuned) - across:
            panel.set_xlabel("trials")
            panel.tick_params(labelbottom=True)
    return figure, _caption(study, group, len(tuned))


def _draw_bands(panels: Sequence[Axes], study: Study, group: TunedGroup, tuned: Sequence[Tuned]) -> None:
    for place, (panel, item) in enumerate(zip(panels, tuned, strict=True)):
        _draw_band(panel, item, tuned, place)
        _tick(panel, group.trials, least_apart=2)
        panel.locator_params(axis="y", nbins=5)
        panel.set_ylim(_limits(study, tuned))
        panel.grid(axis="y")


def _draw_curve(axes: Axes, item: Tuned, place: int, marker: str) -> None:
    axes.plot(
        np.arange(1, item.curve.trials + 1),
        item.curve.best,
        color=COLOURS[place],
        linewidth=1.3,
        marker=marker,
        markersize=3.2,
        markeredgewidth=0,
        label=drawable(item.label),
        zorder=3,
    )


def _draw_band(axes: Axes, item: Tuned, tuned: Sequence[Tuned], place: int) -> None:
    for other in tuned:
        if other is not item:
            axes.plot(np.arange(1, other.curve.trials + 1), other.curve.best, color=_LIGHT, linewidth=0.8, zorder=2)
    budgets = np.arange(1, item.curve.trials + 1)
    # A band without an end goes on beyond the panel.
    far = 1e6 * (1 + float(np.abs(_finite(item.curve.best)).max(initial=0.0)))
    lower, upper = (np.clip(band, -far, far) for band in (item.curve.lower, item.curve.upper))
    axes.fill_between(budgets, lower, upper, color=COLOURS[place], alpha=0.18, linewidth=0, zorder=1)
    _draw_curve(axes, item, place, marker="")


def _label_axes(axes: Axes, study: Study, group: TunedGroup) -> None:
    quantity = "expected" if group.tuned[0].curve.quantity == "mean" else "median"
    axes.set_xlabel("trials")
    axes.set_ylabel(f"{quantity} best validation\n{drawable(study.axis_label, 40)}")
    axes.grid(axis="y")
    _tick(axes, group.trials)
    if group.label:
        axes.set_title(drawable(group.label), loc="left")


def _tick(axes: Axes, trials: int, least_apart: float = 1.4) -> None:
    axes.set_xscale("log", base=2)
    shown = [budget for budget in budgets_shown(trials) if budget == trials or budget * least_apart <= trials]
    axes.set_xticks(shown, [str(budget) for budget in shown])
    axes.set_xlim(0.95, trials * 1.05)


def _limits(study: Study, tuned: Sequence[Tuned]) -> tuple[float, float]:
    """Where the curves lie and their bands of half the budget, but no further than thrice the curves' own range."""
    values = _finite(np.concatenate([item.curve.best for item in tuned]))
    if not values.size:
        return inside((-1.0, 1.0), study.definition.lower, study.definition.upper)
    half = max(min(item.curve.trials for item in tuned) // 2, 1) - 1
    bands = np.array([[item.curve.lower[half], item.curve.upper[half]] for item in tuned])
    low, high = float(values.min()), float(values.max())
    reach = max(high - low, 0.02 * abs(high))
    finite = _finite(bands)
    lowest, highest = min(low, float(finite.min(initial=low))), max(high, float(finite.max(initial=high)))
    lowest, highest = max(lowest, low - 3 * reach), min(highest, high + 3 * reach)
    margin = 0.04 * (highest - lowest)
    return inside((lowest - margin, highest + margin), study.definition.lower, study.definition.upper)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of the values that can be drawn: the best of diverged trials is infinite where the metric has no bound."""
    return values[np.isfinite(values)]


def _caption(study: Study, group: TunedGroup, drawn: int) -> str:
    quantity = "Mean" if group.tuned[0].curve.quantity == "mean" else "Median"
    narrow = (study.figure_inches or PAGE_INCHES) < NARROW_INCHES
    first, second = ("Above", "Below") if narrow else ("Left", "Right")
    text = (
        f"{quantity} of the best validation {study.metric_label} of so many trials of the search. "
        f"{'' if drawn == 1 else f'{first}: all settings. {second}: each with its band, the others in grey. '}The band"
        f"{' holds for all budgets' if drawn == 1 else 's hold for all budgets and settings'} at once with "
        f"{100 * (1 - ALPHA):.0f} %."
    )
    if drawn < len(group.tuned):
        text += f" The {drawn} best of {len(group.tuned)} settings are drawn; all are in the table."
    return capital(text)
