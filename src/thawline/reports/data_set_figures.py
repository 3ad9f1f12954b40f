"""Strategies over data sets as figures: the matrix of pairs, and the performance profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline import statistics
from thawline.reports.document import DASH, p_value, signed
from thawline.reports.escaping import MINUS
from thawline.reports.figure_style import COLOURS, COLUMN_INCHES, GREY, PAGE_INCHES, drawable
from thawline.reports.over_data_sets import OverDataSets
from thawline.reports.study import Study
from thawline.statistics import PairOverDataSets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_IN_MATRIX = 12
_MOST_LINES = len(COLOURS)
_CELL_INCHES = 0.52
_LONGEST_NAME = 24
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    (0, (8, 2)),
    (0, (2, 2)),
    (0, (6, 1, 1, 1)),
)
"""A line style for each colour: lines can be told apart in grey."""
_ALPHA = 0.05


def matrix_figure(study: Study, found: OverDataSets) -> tuple[Figure, str]:
    """Each strategy of a row against each of a column: mean difference, wins / ties / losses, p; and the caption."""
    from matplotlib.figure import Figure

    every = [drawable(found.strategies[place], _LONGEST_NAME) for place in found.order]
    label = 0.058 * max(map(len, every)) + 0.15
    widest = study.figure_inches or PAGE_INCHES
    order = found.order[: max(2, min(MOST_IN_MATRIX, int((widest - label) / _CELL_INCHES) + 1))]
    names = every[: len(order)]
    cells = len(order) - 1
    width = study.figure_inches or (COLUMN_INCHES if label + cells * _CELL_INCHES <= COLUMN_INCHES else PAGE_INCHES)
    height = min((width - label) / cells, 0.48) * cells + 0.35 + 0.045 * max(map(len, names))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    places = [(row, column) for row in range(cells) for column in range(row + 1, cells + 1)]
    pairs = {(row, column): found.pair(order[row], order[column]) for row, column in places}
    _draw_cells(axes, pairs, cells, _digits(study, found), better=1 if found.mode == "max" else -1)
    axes.set_yticks(range(cells), names[:-1])
    axes.set_xticks(range(cells), names[1:], rotation=35, ha="left", rotation_mode="anchor")
    _how_to_read(axes, found, cells)
    return figure, _matrix_caption(study, found, len(order))


def _draw_cells(
    axes: Axes, pairs: dict[tuple[int, int], PairOverDataSets], cells: int, digits: int, *, better: int
) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    # Orange to blue, pale enough for black text; in print without colour the sign tells.
    colours = LinearSegmentedColormap.from_list("difference", ["#E8A06A", "#FFFFFF", "#7DB4DC"])
    largest = max((abs(pair.difference) for pair in pairs.values() if pair.difference is not None), default=0.0) or 1.0
    for (row, column), pair in pairs.items():
        share = better * (pair.difference or 0.0) / largest
        box = (column - 1.5, row - 0.5)
        axes.add_patch(Rectangle(box, 1, 1, facecolor=colours(0.5 + share / 2), edgecolor="white", linewidth=1.5))
        told = pair.p < _ALPHA
        text = "\n".join((_difference(pair, digits), f"{pair.wins}/{pair.ties}/{pair.losses}", _p(pair.p)))
        axes.text(column - 1, row, text, ha="center", va="center", fontsize=6.5, linespacing=1.15,
                  fontweight="bold" if told else "normal")  # fmt: skip
    axes.set(xlim=(-0.5, cells - 0.5), ylim=(cells - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _how_to_read(axes: Axes, found: OverDataSets, cells: int) -> None:
    """What stands in a cell, in the corner that is empty."""
    if cells < 3:
        return
    what = "mean ratio less 1" if found.relative else "mean difference"
    text = f"row {MINUS} column:\n{what}\nwin / tie / loss\np (Wilcoxon)"
    axes.text(-0.45, cells - 0.55, text, ha="left", va="bottom", fontsize=6.5, color=GREY, linespacing=1.2)


def _digits(study: Study, found: OverDataSets) -> int:
    return 2 if found.relative else study.digits


def _difference(pair: PairOverDataSets, digits: int) -> str:
    return DASH if pair.difference is None else signed(pair.difference, digits)


def _p(p: float) -> str:
    told = p_value(p)
    return f"p {told}" if told.startswith("<") else f"p = {told}"


def _matrix_caption(study: Study, found: OverDataSets, drawn: int) -> str:
    how = "the geometric mean of the ratio of their scores, less 1" if found.relative else "the mean difference"
    better = "more" if found.mode == "max" else "less"
    text = (
        f"Each strategy against each other on {len(found.blocks)} {found.what}, by mean {study.split_label} "
        f"{study.metric_label} ({better} is better): row less column, with {how}, the {found.what} that the row wins, "
        "ties and loses, and the p of Wilcoxon's signed-rank test, exact and not corrected for other pairs. Blue: the "
        f"row is better; bold: p below {_ALPHA}. Sorted by mean rank."
    )
    if drawn < len(found.strategies):
        text += f" The {drawn} best of {len(found.strategies)} strategies are drawn; all pairs are in the table."
    return text


def profile_figure(study: Study, found: OverDataSets) -> tuple[Figure, str]:
    """The share of runs above each normalised score, a line for each strategy; and the caption."""
    from matplotlib.figure import Figure

    every = np.concatenate([one.ravel() for one in found.normalised])
    low, high = min(0.0, float(every.min())), max(1.0, float(every.max()))
    thresholds = np.linspace(low - 0.02, high + 0.02, 201)
    drawn = found.order[:_MOST_LINES]
    profiles = statistics.performance_profiles([one[drawn] for one in found.normalised], thresholds)
    figure = Figure(
        figsize=(study.figure_inches or COLUMN_INCHES, 2.4 + 0.14 * ((len(drawn) + 1) // 2)), layout="constrained"
    )
    axes = figure.subplots()
    for line, place in enumerate(drawn):
        _draw_profile(axes, profiles, line, drawable(found.strategies[place], _LONGEST_NAME))
    axes.set(xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1))
    axes.set_xlabel("normalised score (0 worst, 1 best strategy's mean)")
    axes.set_ylabel("share of runs above it")
    axes.grid(axis="both")
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
    return figure, _profile_caption(found, len(drawn), banded=profiles.low is not None)


def _draw_profile(axes: Axes, profiles: statistics.Profiles, line: int, name: str) -> None:
    colour = COLOURS[line]
    x = profiles.thresholds
    if profiles.low is not None and profiles.high is not None:
        band: dict[str, Any] = {"color": colour, "step": "post", "alpha": 0.12, "linewidth": 0}
        axes.fill_between(x, profiles.low[line], profiles.high[line], **band)
    look: dict[str, Any] = {"color": colour, "linestyle": _DASHES[line], "linewidth": 1.2, "drawstyle": "steps-post"}
    axes.plot(x, profiles.shares[line], label=name, clip_on=False, **look)


def _profile_caption(found: OverDataSets, drawn: int, *, banded: bool) -> str:
    band = " Band: pointwise 95 %, by drawing seeds within each of them." if banded else ""
    every = len(found.scores)
    blocks = f"{every}" if len(found.normalised) == every else f"{len(found.normalised)} of {every}"
    text = (
        f"Performance profiles over {blocks} {found.what}, each of which counts alike: the share of "
        "runs whose score is above a value, scores normalised so that 0 is the mean of the worst strategy there and 1 "
        f"that of the best. A line above another all along is better throughout.{band}"
    )
    if drawn < len(found.strategies):
        text += f" The {drawn} best of {len(found.strategies)} strategies by mean rank are drawn."
    return text


def pair_entries(found: OverDataSets, pair: PairOverDataSets, digits: int) -> Sequence[str]:
    """A pair as a table shows it: difference, wins / ties / losses, p."""
    return (
        _difference(pair, 2 if found.relative else digits),
        f"{pair.wins} / {pair.ties} / {pair.losses}",
        p_value(pair.p),
    )
