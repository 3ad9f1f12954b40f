"""How the figures look: sizes of a paper's columns, colours for all eyes, and names drawn as mere text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from thawline.errors import usage_error
from thawline.reports.escaping import plain

COLUMN_INCHES = 3.4
PAGE_INCHES = 7.0
NARROW_INCHES = 5.0
"""Below this width panels and legends stand below one another, not side by side."""
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
_NAMED_WIDTHS = {"column": COLUMN_INCHES, "text": PAGE_INCHES}
_LEAST_INCHES, _MOST_INCHES = 2.0, 14.0
# Okabe and Ito's colours, told apart by colour-blind readers too; the yellow is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#555555"
# How a mean is drawn, and how one that another row beats.
IN_THE_RUNNING: Any = {"markersize": 3.2, "markeredgewidth": 0, "clip_on": False}
OUT_OF_THE_RUNNING: Any = {"markersize": 3.6, "markeredgewidth": 0.9, "markerfacecolor": "white", "clip_on": False}
LONGEST_LABEL = 28
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.titlesize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.borderaxespad": 0.2,
    "legend.labelspacing": 0.35,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    # Type 42 keeps the fonts as outlines that editors and publishers accept; a name with $ is no formula.
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "thawline",
}


def width_in_inches(text: str) -> float:
    """The width that `text` says: ``column``, ``text``, or a number with its unit (``3.25in``, ``8.3cm``, ``246pt``).

    Raises:
        UsageError: it says none, or one that no figure can have.
    """
    if text in _NAMED_WIDTHS:
        return _NAMED_WIDTHS[text]
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(in|cm|mm|pt)", text)
    inches = float(match[1]) * _INCHES[match[2]] if match is not None else 0.0
    if not _LEAST_INCHES <= inches <= _MOST_INCHES:
        raise usage_error(
            "--figure-width",
            f"{text!r} is no width from {_LEAST_INCHES:g} to {_MOST_INCHES:g} inches: column, text, or a number with "
            "in, cm, mm or pt",
        )
    return inches


def look_of(place: int) -> tuple[str, str]:
    """Colour and marker of the line at a place: beyond the seventh, colours come again with other markers."""
    turn, colour = divmod(place, len(COLOURS))
    return COLOURS[colour], MARKERS[(colour + turn) % len(MARKERS)]


def inside(limits: tuple[float, float], lower: float | None, upper: float | None) -> tuple[float, float]:
    """Axis limits that do not leave the bounds of a metric; what is drawn at a bound must not be clipped there."""
    low, high = limits
    return low if lower is None else max(low, lower), high if upper is None else min(high, upper)


def apart(positions: Sequence[float], width: float, least: float = 0.06) -> list[float]:
    """Of `positions` those whose labels have room: both ends, and others at least `least` of `width` apart."""
    ordered = sorted(set(positions))
    if len(ordered) < 3 or width <= 0:
        return ordered
    kept = [ordered[0]]
    for position in ordered[1:-1]:
        if min(position - kept[-1], ordered[-1] - position) >= least * width:
            kept.append(position)
    return [*kept, ordered[-1]]


def drawable(text: str, most: int = LONGEST_LABEL) -> str:
    """A label that the font can draw: a character that it lacks becomes a question mark."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in plain(text, most))
