"""How a race went: how long each candidate ran, and how its seeds compare with those of the one that came in first."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

from thawline.reports.document import capital
from thawline.reports.figure_style import COLOURS, GREY, PAGE_INCHES, drawable
from thawline.reports.races import RaceOf, Racer
from thawline.reports.study import Study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RACERS = 30
_LEFT, _DROPPED = COLOURS[0], COLOURS[1]


def race_figure(study: Study, race: RaceOf) -> tuple[Figure, str]:
    """The figure of a race, and its caption."""
    from matplotlib.figure import Figure

    racers = race.racers[:MOST_RACERS]
    figure = Figure(figsize=(study.figure_inches or PAGE_INCHES, 0.21 * len(racers) + 1.0), layout="constrained")
    lanes, differences = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1.0)).tolist()
    first = _first(study, race)
    for place, racer in enumerate(racers):
        _draw_lane(lanes, race, racer, place)
        _draw_differences(differences, racer, first, place)
    _finish_lanes(lanes, race, racers)
    differences.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    differences.set_xlabel(drawable(f"validation {study.metric_label}, difference from {first.label}", 70))
    differences.grid(axis="both")
    differences.tick_params(axis="y", length=0)
    differences.spines["left"].set_visible(False)
    _legend(figure, race)
    return figure, _caption(study, race, first, len(racers))


def _first(study: Study, race: RaceOf) -> Racer:
    """Of those left the one with the best mean over the seeds that it has run; of all where none is left."""
    sign = 1.0 if study.mode == "max" else -1.0

    def mean(racer: Racer) -> float:
        scores = [score for score in racer.raced.values() if math.isfinite(score)]
        return sign * fmean(scores) if scores else -math.inf

    return max(race.left or race.racers, key=lambda racer: (len(racer.raced), mean(racer)))


def _draw_lane(axes: Axes, race: RaceOf, racer: Racer, place: int) -> None:
    colour = _LEFT if racer.drop is None else _DROPPED
    ran = len(racer.raced)
    axes.plot([0, ran], [place, place], color=colour, linewidth=3, solid_capstyle="butt", alpha=0.75, zorder=2)
    if racer.drop is not None:
        axes.plot([ran], [place], "X", color=colour, markersize=6, markeredgewidth=0, zorder=4, clip_on=False)
    if racer.fresh:
        start = race.looks[-1] + 0.6
        style = "-" if racer.drop is None else (0, (1.0, 0.6))
        axes.plot(
            [start, start + len(racer.fresh)],
            [place, place],
            color=colour,
            linewidth=3,
            solid_capstyle="butt",
            dash_capstyle="butt",
            linestyle=style,
            zorder=2,
        )


def _finish_lanes(axes: Axes, race: RaceOf, racers: Sequence[Racer]) -> None:
    last = race.looks[-1]
    for look in race.looks:
        axes.axvline(look, color=GREY, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    start = last + 0.6
    end = start + race.fresh_seeds
    axes.axvspan(start, end, color="#F0F0F0", zorder=0, linewidth=0)
    axes.set_xticks(
        [0, *race.looks, (start + end) / 2], ["0", *map(str, race.looks), f"{race.fresh_seeds} fresh seeds"]
    )
    axes.set_xlim(0, end)
    axes.set_ylim(len(racers) - 0.4, -0.6)
    axes.set_yticks(range(len(racers)), [drawable(racer.label) for racer in racers])
    axes.set_xlabel("seeds run; looks are dashed")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_differences(axes: Axes, racer: Racer, first: Racer, place: int) -> None:
    colour = _LEFT if racer.drop is None else _DROPPED
    if racer is first:
        axes.plot([0], [place], "D", color=colour, markersize=5, markeredgewidth=0, zorder=4)
        return
    common = [seed for seed in racer.raced if seed in first.raced]
    values = [racer.raced[seed] - first.raced[seed] for seed in common]
    finite = [value for value in values if math.isfinite(value)]
    axes.scatter(finite, [place] * len(finite), s=9, facecolors=colour, alpha=0.45, linewidths=0, zorder=3)
    if finite:
        axes.plot([fmean(finite)], [place], "|", color=colour, markersize=10, markeredgewidth=1.8, zorder=4)


def _legend(figure: Figure, race: RaceOf) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=_LEFT, linewidth=3, label="in the running")]
    if race.dropped:
        entries.append(Line2D([], [], color=_DROPPED, linewidth=3, marker="X", markersize=6, label="dropped"))
    if any(racer.fresh for racer in race.dropped):
        dotted = (0, (1.0, 0.6))
        entries.append(Line2D([], [], color=_DROPPED, linewidth=3, linestyle=dotted, label="dropped, audited"))
    entries += [
        Line2D([], [], color=GREY, linestyle="none", marker="o", markersize=3, alpha=0.6, label="a seed"),
        Line2D([], [], color=GREY, linestyle="none", marker="|", markersize=9, markeredgewidth=1.8, label="mean"),
        Line2D([], [], color=_LEFT, linestyle="none", marker="D", markersize=5, markeredgewidth=0, label="first"),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), columnspacing=1.4)


def _caption(study: Study, race: RaceOf, first: Racer, drawn: int) -> str:
    text = (
        f"Left: the seeds that each setting ran before it was dropped, and the fresh seeds of those left. Right: its "
        f"validation {study.metric_label} less that of {first.label} on the same seeds of the race."
    )
    if study.direction_note:
        text += f" {capital(study.direction_note)}."
    if drawn < len(race.racers):
        text += f" The first {drawn} of {len(race.racers)} settings are drawn; all are in the table."
    return text
