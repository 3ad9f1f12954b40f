"""Draw docs/architecture.svg from the source: ``python -m tools.architecture``, or ``make architecture``.

The floors are those that ``tests/test_floors.py`` holds the imports to. Each package and loose module has a row, with
the first sentence of its docstring, and a dot for each other one that it imports.
"""

from __future__ import annotations

import ast
import functools
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

from tests.test_floors import FLOOR_OF, FLOORS, SOURCE, imports_of

DRAWING = Path(__file__).resolve().parent.parent / "docs" / "architecture.svg"

ROW, CELL, TOP, BOTTOM = 31, 17, 158, 52  # pixels: a row's height, a column's width, above and below the rows
NAME, WORDS, DOTS = 64, 190, 602  # pixels from the left: names, descriptions, dots
LONGEST = 74  # characters of a line of a description
COLD, WARM = (38, 98, 158), (212, 84, 36)
INK, PALE, PAPER = "#1f2933", "#66727f", "#ffffff"
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"


def rows() -> list[str]:
    """The packages and modules below ``thawline``, from the highest floor down; the entry point is left out."""
    return [name for names in reversed(FLOORS) for name in sorted(names) if not name.startswith("__")]


@functools.cache
def imports() -> dict[str, set[str]]:
    """What each package or module imports of the others."""
    found: dict[str, set[str]] = {name: set() for name in rows()}
    for name, file in ((_owner(file), file) for file in sorted(SOURCE.rglob("*.py"))):
        if name in found:
            found[name] |= imports_of(file) - {name}
    return found


def description(name: str) -> str:
    """The first sentence of the docstring, without the name that it may begin with."""
    file = SOURCE / name / "__init__.py"
    text = ast.get_docstring(ast.parse((file if file.is_file() else SOURCE / f"{name}.py").read_text())) or ""
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
    start, colon, rest = sentence.partition(": ")
    if colon and start.lower().replace(" ", "_") == name:
        sentence = rest
    return sentence[:1].upper() + sentence[1:]


def drawing() -> str:
    """The drawing as SVG."""
    names, imported = rows(), imports()
    width, height = DOTS + CELL * len(names) + 52, TOP + ROW * len(names) + BOTTOM
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="{FONT}" role="img" aria-label="The packages of thawline by floor, and what each imports">'
        ),
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        _text(24, 44, "The floors of thawline", size=23, bold=True),
        _text(
            24,
            70,
            "A package imports only what is on a lower floor; on floor 0 also each other.",
            size=13.5,
            fill=PALE,
        ),
        _text(
            24,
            89,
            "A dot: the package of the row imports that of the column. A square: itself.",
            size=13.5,
            fill=PALE,
        ),
        *_bands(names, width),
        *_columns(names, height),
    ]
    for index, name in enumerate(names):
        parts += _row(index, name, [names.index(other) for other in imported[name] if other in names])
    parts.append(_text(24, height - 20, "Made from the source by tools/architecture.py", size=11, fill=PALE))
    return "\n".join([*parts, "</svg>", ""])


def _owner(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def _floors(names: list[str]) -> Iterator[tuple[int, int, int]]:
    """Each floor with its first row and the row after its last."""
    for floor in sorted({FLOOR_OF[name] for name in names}, reverse=True):
        inside = [index for index, name in enumerate(names) if FLOOR_OF[name] == floor]
        yield floor, inside[0], inside[-1] + 1


def _bands(names: list[str], width: int) -> Iterator[str]:
    for floor, first, end in _floors(names):
        y, height = TOP + first * ROW, (end - first) * ROW
        side = f'y="{y + 1}" height="{height - 2}"'
        yield f'<rect x="16" {side} width="{width - 32}" rx="5" fill="{_shade(floor, 0.09)}"/>'
        yield f'<rect x="16" {side} width="32" rx="5" fill="{_shade(floor)}"/>'
        yield _text(32, y + height / 2 + 5.5, str(floor), size=15, bold=True, fill=PAPER, anchor="middle")
        # The imports inside a floor would be here.
        x, inside = DOTS + first * CELL, (end - first) * CELL
        yield f'<rect x="{x}" {side} width="{inside}" fill="{_shade(floor, 0.22)}"/>'


def _columns(names: list[str], height: int) -> Iterator[str]:
    for index, name in enumerate(names):
        x = DOTS + (index + 0.5) * CELL
        line = f'x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"'
        yield f'<line {line} stroke="{PAPER}" stroke-width="1.5"/>'
        yield (
            f'<text transform="translate({x + 4} {TOP - 8}) rotate(-62)" font-size="11.5" '
            f'fill="{_shade(FLOOR_OF[name])}">{escape(name)}</text>'
        )


def _row(index: int, name: str, columns: list[int]) -> Iterator[str]:
    middle, color = TOP + (index + 0.5) * ROW, _shade(FLOOR_OF[name])
    yield _text(NAME, middle + 4.5, name, size=13, bold=True, fill=color)
    lines = textwrap.wrap(description(name), LONGEST, max_lines=2, placeholder=" ...")
    for line, text in enumerate(lines):
        yield _text(WORDS, middle + 4 + (line - (len(lines) - 1) / 2) * 13, text, size=11.5)
    x = DOTS + (index + 0.5) * CELL
    yield f'<rect x="{x - 4.5}" y="{middle - 4.5}" width="9" height="9" rx="2" fill="none" stroke="{color}"/>'
    for column in sorted(columns):
        yield f'<circle cx="{DOTS + (column + 0.5) * CELL}" cy="{middle}" r="4.6" fill="{color}"/>'


def _text(
    x: float, y: float, text: str, *, size: float, fill: str = INK, bold: bool = False, anchor: str = "start"
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    where = f'x="{x}" y="{y}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" fill="{fill}"{weight}>{escape(text)}</text>'


def _shade(floor: int, strength: float = 1.0) -> str:
    """Cold at the bottom, warm at the top; less strength is nearer to white."""
    share = floor / max(FLOOR_OF[name] for name in rows())
    mixed = (cold + (warm - cold) * share for cold, warm in zip(COLD, WARM, strict=True))
    return "#" + "".join(f"{round(255 + (value - 255) * strength):02x}" for value in mixed)


if __name__ == "__main__":
    DRAWING.write_text(drawing())
