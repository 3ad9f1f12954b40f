"""What training changed, layer group by layer group: drift of the weights, and likeness of the outputs to the source's.

A row of the heat map is a row of the table, a column a layer group from the stem to the output; a group that never
trained has no colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thawline.reports.changes import Groups, mean_change
from thawline.reports.escaping import MINUS
from thawline.reports.figure_style import GREY, LONGEST_LABEL, NARROW_INCHES, PAGE_INCHES, drawable
from thawline.reports.loaded_run import Change
from thawline.reports.rows import Row
from thawline.reports.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_ROWS = 40
_BESIDE_INCHES = 2.1
"""What names of rows and the bar of colours take of a figure's width."""
_WRITTEN_INCHES, _NAMED_INCHES = 0.3, 0.2
"""The least width of a cell with a number in it, and of the name of a layer group."""
_LONGEST_NAME = 14
_LONGEST_NARROW_LABEL = 20
_FROZEN = "#F2F2F2"
_DARK = 0.6
"""Cells with a colour above this share of the map have white numbers."""


@dataclass(frozen=True)
class _Map:
    """One heat map: what it shows, how it is written, and its colours."""

    title: str
    of: Callable[[Change], float]
    colours: str
    span: tuple[float, float]
    digits: int
    logarithmic: bool

    def shows(self, value: float) -> bool:
        """Whether the value has a colour: where the scale is logarithmic, a zero has none."""
        return math.isfinite(value) and not (self.logarithmic and value == 0)


_DRIFT = _Map(
    "relative drift of the weights", lambda change: change.relative, "Blues", (0.15, 0.95), 3, logarithmic=True
)
_CKA = _Map(
    "linear CKA of the outputs with the source's",
    lambda change: change.cka,
    "Oranges_r",
    (0.1, 1.0),
    2,
    logarithmic=False,
)


def change_figure(study: Study, groups: Groups, rows: Sequence[Row]) -> tuple[Figure, str] | None:
    """The heat maps of the rows of one network, and their caption; None where nothing changed or nothing is known."""
    from matplotlib.figure import Figure

    drawn = rows[:_MOST_ROWS]
    values = {
        which.title: [[mean_change(row, place, which.of) for place in range(len(groups))] for row in drawn]
        for which in (_DRIFT, _CKA)
    }
    maps = [
        which for which in (_DRIFT, _CKA) if any(which.shows(value) for line in values[which.title] for value in line)
    ]
    if not maps:
        return None
    width = study.figure_inches or PAGE_INCHES
    named = _room(width, _NAMED_INCHES)
    longest = LONGEST_LABEL if width >= NARROW_INCHES else _LONGEST_NARROW_LABEL
    height = 0.17 * len(drawn) * len(maps) + 0.55 * len(maps) + (0.75 if len(groups) <= named else 0.35)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(maps), 1, squeeze=False, sharex=True)[:, 0].tolist()
    for panel, which in zip(panels, maps, strict=True):
        _draw(figure, panel, which, values[which.title])
        panel.set_yticks(range(len(drawn)), [drawable(row.label or "all runs", longest) for row in drawn])
        for label, row in zip(panel.get_yticklabels(), drawn, strict=True):
            label.set_fontweight("bold" if study.is_chosen(row) else "normal")
    _name_groups(panels[-1], groups, named)
    return figure, _caption(maps, len(drawn), len(rows), chosen=study.any_validated)


def _draw(figure: Figure, axes: Axes, which: _Map, values: list[list[float]]) -> None:
    import matplotlib as mpl
    import numpy as np
    from matplotlib.colors import ListedColormap

    table = np.array(values)
    shown = np.ma.masked_where(~np.vectorize(which.shows)(table), table)
    norm = _scale(which, shown)
    # Without its palest end the map's weakest colour differs from that of what did not move.
    colours = ListedColormap(mpl.colormaps[which.colours](np.linspace(*which.span, 256))).with_extremes(bad=_FROZEN)
    # The middle of a cell is a whole number, as the place of a tick is.
    edges = [np.arange(size + 1) - 0.5 for size in table.shape]
    image = axes.pcolormesh(edges[1], edges[0], shown, cmap=colours, norm=norm, edgecolors="white", linewidth=0.8)
    axes.invert_yaxis()
    # Above narrow maps a title stands over the names of the rows too.
    axes.set_title(which.title, loc="left" if figure.get_figwidth() >= NARROW_INCHES else "right")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=12, fraction=0.03)
    bar.outline.set_visible(False)
    if which.logarithmic:
        # Powers of ten would be formulas, which labels are not read as.
        bar.ax.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
        bar.ax.yaxis.set_minor_formatter(lambda value, place: "")
    bar.ax.tick_params(length=2, labelsize=6.5)
    if table.shape[1] <= _room(figure.get_figwidth(), _WRITTEN_INCHES):
        _write(axes, which, table, image)


def _scale(which: _Map, shown: Any) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(shown.min()), float(shown.max())
    if not which.logarithmic:
        return Normalize(min(low, 0.9), 1.0)
    return LogNorm(min(low, high / 10), high)


def _write(axes: Axes, which: _Map, table: Any, image: Any) -> None:
    for y, line in enumerate(table):
        for x, value in enumerate(line):
            if not math.isfinite(value):
                continue
            frozen = which.logarithmic and value == 0
            text = "0" if frozen else _told(value, which.digits)
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = not frozen and 0.3 * red + 0.59 * green + 0.11 * blue < _DARK
            colour = GREY if frozen else ("white" if dark else "black")
            axes.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)


def _told(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text if float(text) else f"{value:.0e}".replace("e-0", "e-")


def _room(width: float, each: float) -> int:
    """How many layer groups a figure of `width` inches has room for, at so many inches each."""
    return max(1, int((width - _BESIDE_INCHES) / each))


def _name_groups(axes: Axes, groups: Groups, most: int) -> None:
    """Name the layer groups, or number some of them where there are more than `most`."""
    if len(groups) <= most:
        names = [drawable(name, _LONGEST_NAME) for name in groups]
        axes.set_xticks(range(len(groups)), names, rotation=45, ha="right", rotation_mode="anchor")
    else:
        step = math.ceil(len(groups) / most)
        axes.set_xticks(range(0, len(groups), step), [str(place) for place in range(0, len(groups), step)])
    axes.set_xlabel("layer group, input to output")


def _caption(maps: Sequence[_Map], drawn: int, rows: int, *, chosen: bool) -> str:
    sentences = []
    if _DRIFT in maps:
        sentences.append(
            f"Relative drift ‖w {MINUS} w₀‖ / ‖w₀‖ of the weights of each layer group from the source's, colours on a "
            "logarithmic scale; grey: not moved at all."
        )
    if _CKA in maps:
        sentences.append(
            "Linear CKA between the outputs of source and tuned network on validation images, averaged over "
            "positions: 1 is the same up to rotation and scale."
        )
    sentences.append(f"Means over the seeds{'; bold: chosen on validation' if chosen else ''}.")
    if drawn < rows:
        sentences.append(f"The first {drawn} of {rows} rows are drawn; all are in layers.csv.")
    return " ".join(sentences)
