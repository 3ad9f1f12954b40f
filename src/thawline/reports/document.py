"""A report before it has a format: sections of text and tables, escaped by whoever writes them out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from thawline.reports.escaping import EN_DASH, MINUS

Align = Literal["left", "right"]
DASH = EN_DASH


@dataclass(frozen=True)
class Column:
    """A column's heading and the side that its entries stand on."""

    heading: str
    align: Align = "right"


@dataclass(frozen=True)
class Line:
    """One line of a table; a strong one is what was chosen."""

    entries: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text, with what it shows (`caption`) and how it is to be read (`note`)."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    caption: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        widths = {len(line.entries) for line in self.lines} | {len(self.columns)}
        if len(widths) != 1:
            raise ValueError(f"lines of {sorted(widths)} entries in one table")


@dataclass(frozen=True)
class Drawing:
    """A figure in its formats, and what is to be seen on it; its files are called `name`."""

    name: str
    png: bytes
    pdf: bytes
    svg: bytes
    caption: str
    width_inches: float


@dataclass(frozen=True)
class StoredImage:
    """A JPEG file that a run has left; `caption` says what it is, and `alt` what a reader sees who does not see it.

    Small ones stand beside each other, and their captions have several lines.
    """

    name: str
    content: bytes
    caption: str
    alt: str
    small: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report. A folded one is open to who asks: long, and not needed to understand the result.

    `chart` names what the page draws in it instead of its drawings, where a script can run.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    images: tuple[StoredImage, ...] = ()
    code: str = ""
    folded: bool = False
    chart: Literal["", "curves", "changes", "cost", "confusion", "runs"] = ""


@dataclass(frozen=True)
class Document:
    """A whole report: the answer first, then what it rests on."""

    title: str
    answer: tuple[str, ...]
    warnings: tuple[str, ...]
    figure_caption: str
    sections: tuple[Section, ...] = field(default=())


DIGITS = 3
_MOST_DIGITS = 9


def digits_of(values: Iterable[float]) -> int:
    """Digits after the point for `values`: three from 0.1 to 10, fewer for larger and more for smaller numbers."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return DIGITS
    magnitude = math.floor(math.log10(largest))
    wanted = 2 - magnitude if magnitude < -1 else DIGITS - max(magnitude, 0)
    return min(max(wanted, 0), _MOST_DIGITS)


def capital(text: str) -> str:
    """`text` with a capital first letter, unless it starts with a name that has none, such as mAP."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def number(value: float | None, digits: int = DIGITS) -> str:
    """A number with a fixed number of digits after the point, a true minus sign, and a dash where there is none."""
    if value is None or value != value:
        return DASH
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int = DIGITS) -> str:
    """A difference: as `number`, with a plus where it is positive."""
    text = number(value, digits)
    return f"+{text}" if value is not None and float(f"{value:.{digits}f}") > 0 else text


def interval(bounds: tuple[float, float] | None, digits: int = DIGITS, *, with_sign: bool = False) -> str:
    """An interval in brackets, or a dash."""
    if bounds is None:
        return DASH
    write = signed if with_sign else number
    return f"[{write(bounds[0], digits)}, {write(bounds[1], digits)}]"


def p_value(p: float) -> str:
    """A p value with as many digits as matter."""
    return "<0.001" if p < 0.001 else f"{p:.3g}"


def count(value: float | None) -> str:
    """A whole number with thousands set off, or a dash."""
    return DASH if value is None else f"{round(value):,}"


def seconds(value: float | None) -> str:
    """Seconds, with a digit after the point where they are few."""
    return DASH if value is None else (f"{value:.1f}" if value < 100 else f"{value:,.0f}")


def mebibytes(value: float | None) -> str:
    """Bytes as MiB."""
    return DASH if value is None else f"{value / 2**20:,.0f}"


def columns(*headings: str, left: Sequence[int] = (0,)) -> tuple[Column, ...]:
    """Columns of numbers, but for those whose places are in `left`."""
    return tuple(Column(heading, "left" if place in left else "right") for place, heading in enumerate(headings))
