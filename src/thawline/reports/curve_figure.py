"""Learning curves: the training loss and the validation metric of every run, epoch by epoch, in the row's colour."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from thawline.reports.document import capital
from thawline.reports.figure_style import COLOURS, GREY, NARROW_INCHES, PAGE_INCHES, drawable, inside
from thawline.reports.rows import Row
from thawline.reports.study import Study

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ROWS = 24
_MOST_RUNS = 400
_MOST_IN_LEGEND = 12


def curve_figure(study: Study) -> tuple[Figure, str] | None:
    """The figure of a study's learning curves, and its caption; None where there are none."""
    from matplotlib.figure import Figure

    every = [row for row in study.rows if any(len(run.train_loss) > 1 for run in row.runs.values())]
    rows = every[:_MOST_ROWS]
    if not rows:
        return None
    width = study.figure_inches or PAGE_INCHES
    narrow = width < NARROW_INCHES
    figure = Figure(
        figsize=(width, 3.8 + 0.15 * min(len(rows), _MOST_IN_LEGEND) if narrow else 2.5), layout="constrained"
    )
    if any(run.validation for row in rows for run in row.runs.values()):
        loss, metric = (figure.subplots(2, 1, sharex=True) if narrow else figure.subplots(1, 2)).tolist()
    else:
        loss, metric = figure.subplots(), None
    colours = _colours(len(rows))
    drawn = 0
    for row, colour in zip(rows, colours, strict=True):
        drawn += _draw_row(loss, metric, study, row, colour, _MOST_RUNS - drawn)
    for axes, label in ((loss, "training loss"), (metric, f"validation {study.axis_label}")):
        if axes is None:
            continue
        if axes is metric or not narrow:
            axes.set_xlabel("epoch")
        axes.set_ylabel(drawable(label, 60))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
    if metric is not None:
        metric.set_ylim(inside(metric.get_ylim(), study.definition.lower, study.definition.upper))
    _legend(figure, rows, colours, below=narrow, dots=metric is not None)
    return figure, _caption(study, len(rows), len(every), validated=metric is not None)


def _draw_row(loss: Axes, metric: Axes | None, study: Study, row: Row, colour: Any, most: int) -> int:
    runs = [run for run in row.runs.values() if len(run.train_loss) > 1][: max(0, most)]
    scored = [(run, run.validation[study.metric]) for run in runs if study.metric in run.validation]
    _draw_lines(loss, [run.train_loss for run in runs], colour)
    if metric is None:
        return len(runs)
    _draw_lines(metric, [scores for _, scores in scored], colour)
    kept = [(run.chosen_epoch, scores[run.chosen_epoch]) for run, scores in scored if run.chosen_epoch < len(scores)]
    kept = [(epoch, score) for epoch, score in kept if math.isfinite(score)]
    if kept:
        epochs, scores = zip(*kept, strict=True)
        metric.plot(epochs, scores, "o", color=colour, markersize=3, markeredgewidth=0, clip_on=False)
    return len(runs)


def _draw_lines(axes: Axes, values: Sequence[Sequence[float]], colour: Any) -> None:
    """A line along the epochs for each of `values`; all of them are one object, which is drawn much faster."""
    from matplotlib.collections import LineCollection

    lines = [list(enumerate(each)) for each in values]
    axes.add_collection(LineCollection(lines, colors=[colour], linewidths=0.8, alpha=0.7, capstyle="projecting"))
    axes.autoscale_view()


def _colours(count: int) -> list[Any]:
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    import matplotlib as mpl

    shades = mpl.colormaps["viridis"]
    return [shades(0.95 * place / (count - 1)) for place in range(count)]


def _legend(figure: Figure, rows: Sequence[Row], colours: Sequence[Any], *, below: bool, dots: bool) -> None:
    from matplotlib.lines import Line2D

    step = math.ceil(len(rows) / _MOST_IN_LEGEND)
    entries = [
        Line2D([], [], color=colours[place], label=drawable(rows[place].label)) for place in range(0, len(rows), step)
    ]
    if dots:
        entries.append(Line2D([], [], color=GREY, linestyle="none", marker="o", markersize=3, label="epoch kept"))
    figure.legend(handles=entries, loc="outside lower center" if below else "outside right center")


def _caption(study: Study, drawn: int, every: int, *, validated: bool) -> str:
    text = "Learning curves of the runs: training loss after each epoch. The weights of the last one were kept."
    if validated:
        text = (
            f"Learning curves of the runs: training loss and validation {study.metric_label} after each epoch. The dot "
            "is the epoch whose weights were kept."
        )
    return capital(text) + (f" The first {drawn} of {every} rows are drawn." if drawn < every else "")
