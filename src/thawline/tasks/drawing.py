"""Drawing what is true of an image and what was predicted, with Pillow: masks, boxes, legends, panels side by side.

Ten colours are told apart in normal vision and in simulated protanopia and deuteranopia; from the eleventh class on
they come again with stripes. Whatever a colour says is also said otherwise: regions carry the number that their class
has in the legend, boxes its name.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from thawline.datasets.targets import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

Colour = tuple[int, int, int]
Line = Literal["solid", "dashed", "dotted"]

# Of the palettes of Okabe and Ito (2008) and of Paul Tol (2021), in an order in which each next one is the farthest
# from those before it (CIELAB), in the vision in which it is nearest.
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (102, 17, 0), (68, 170, 153), (221, 204, 119),
    (136, 34, 85), (86, 180, 233), (51, 34, 136), (17, 119, 51), (213, 94, 0),
)  # fmt: skip
_INK, _PAPER, _GREY = (28, 32, 36), (255, 255, 255), (128, 128, 128)
_TINT = 0.5
_STRIPES = 8
_DASHES: dict[Line, tuple[float, float]] = {"solid": (1.0, 0.0), "dashed": (5.0, 3.0), "dotted": (1.0, 1.5)}
_SMALLEST_REGION = 0.004
"""Share of an image below which a region carries no number: it would hide it."""
_LONGEST_NAME = 28
_MOST_SCALE = 4.0
_BACKGROUND = "background"


@dataclass(frozen=True)
class Entry:
    """A line of a legend: a class by its number and name, and how it looks."""

    number: int
    name: str


@dataclass(frozen=True)
class Marked:
    """A box with what is written at it, in the pixels of the image.

    Attributes:
        box: xmin, ymin, xmax, ymax.
        index: of the class, which has the colour.
        text: written at the box.
        mask: (h, w) bool, the pixels of the object; None: the box alone is known.
        line: how the box is drawn.
    """

    box: tuple[float, float, float, float]
    index: int
    text: str
    mask: NDArray[np.bool_] | None = None
    line: Line = "solid"


def colour_of(index: int) -> Colour:
    """The colour of a class; classes ten apart share one, and differ in their stripes."""
    return COLOURS[index % len(COLOURS)]


def palette() -> bytes:
    """The 256 colours of a mask's file, 3 bytes each: pixel values are class indices; ignored pixels are grey."""
    colours = [colour_of(index) for index in range(256)]
    colours[IGNORE] = _GREY
    return bytes(np.array(colours, dtype=np.uint8))


def scaled(image: Image.Image, side: int) -> tuple[Image.Image, float]:
    """The image with its longer side at `side` pixels, but at most four times as large, and the factor."""
    factor = min(side / max(image.size), _MOST_SCALE)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX), factor


def with_mask(image: Image.Image, mask: NDArray[np.uint8], names: Sequence[str], side: int) -> Image.Image:
    """The image, tinted by the class of each pixel, with outlines, numbers in the regions and a legend below.

    A class that is called background is not tinted. Ignored pixels are grey, with stripes.

    Args:
        image: RGB, (w, h) pixels.
        mask: (h, w) class indices; 255: ignored.
        names: of the classes.
        side: of the result without its legend, as `scaled` has it.
    """
    base, _ = scaled(image, side)
    classes = np.array(Image.fromarray(mask).resize(base.size, Image.Resampling.NEAREST))
    shown = [index for index in np.unique(classes).tolist() if index == IGNORE or index < len(names)]
    pixels = np.asarray(base, dtype=np.float32).copy()
    stripes = _stripes(classes.shape)
    for index in shown:
        if index != IGNORE and names[index].lower() == _BACKGROUND:
            continue
        where = classes == index
        colour = np.array(_GREY if index == IGNORE else colour_of(index), dtype=np.float32)
        pixels[where] = (1 - _TINT) * pixels[where] + _TINT * colour
        if index == IGNORE or index >= len(COLOURS):
            pixels[where & stripes] = 0.4 * pixels[where & stripes] + 0.6 * (255.0 if index != IGNORE else 60.0)
    pixels[_outlines(classes)] *= 0.25
    drawn = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    known = [index for index in shown if index != IGNORE]
    for index in known:
        place = _middle_of(classes == index)
        if place is not None:
            _write_number(drawn, place, index + 1)
    entries = [Entry(index + 1, names[index]) for index in known]
    return below(drawn, legend(drawn.width, entries, ignored=IGNORE in shown))


def with_boxes(image: Image.Image, marked: Iterable[Marked], side: int) -> Image.Image:
    """The image with boxes (and the pixels of objects, where they are known), each with its text.

    Args:
        image: RGB.
        marked: in the order in which they are drawn; coordinates in the pixels of the image.
        side: of the result, as `scaled` has it.
    """
    base, factor = scaled(image, side)
    every = list(marked)
    pixels = np.asarray(base, dtype=np.float32).copy()
    for item in every:
        if item.mask is not None:
            small = Image.fromarray(item.mask.astype(np.uint8)).resize(base.size, Image.Resampling.NEAREST)
            where = np.array(small).astype(bool)
            pixels[where] = (1 - _TINT) * pixels[where] + _TINT * np.array(colour_of(item.index), dtype=np.float32)
            pixels[_outlines(where.astype(np.uint8)) & where] *= 0.25
    drawn = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    for item in every:
        corners = [value * factor for value in item.box]
        _rectangle(pen, corners, colour_of(item.index), item.line, width=max(2, round(max(drawn.size) / 240)))
    for item in every:
        _write_at(pen, drawn.size, (item.box[0] * factor, item.box[1] * factor), item.text, colour_of(item.index))
    return drawn


def with_lines(image: Image.Image, lines: Sequence[str], side: int) -> Image.Image:
    """The image with lines of text below it."""
    base, _ = scaled(image, side)
    font, step = _font(base.width), _line_height(base.width)
    strip = Image.new("RGB", (base.width, step * len(lines) + step // 2), _PAPER)
    pen = ImageDraw.Draw(strip)
    for row, text in enumerate(lines):
        pen.text((step // 3, step // 4 + row * step), _shortened(text, 60), fill=_INK, font=font)
    return below(base, strip)


def legend(width: int, entries: Sequence[Entry], *, ignored: bool = False) -> Image.Image:
    """The classes that are shown, as swatches with number and name, in as many lines as they take."""
    font, step = _font(width), _line_height(width)
    items = [(entry, f"{entry.number} {_shortened(entry.name, _LONGEST_NAME)}") for entry in entries]
    swatch, gap = step - 6, step // 2
    places, left, row = [], gap // 2, 0
    for text in [*(text for _, text in items), *(["not counted"] if ignored else [])]:
        needed = swatch + 6 + round(font.getlength(text)) + gap
        if left + needed > width and left > gap // 2:
            left, row = gap // 2, row + 1
        places.append((left, row, text))
        left += needed
    strip = Image.new("RGB", (width, step * (row + 1) + 6 if places else 0), _PAPER)
    pen = ImageDraw.Draw(strip)
    for place, (left, row, text) in enumerate(places):
        top = 3 + row * step
        _swatch(strip, (left, top + 2), swatch, items[place][0] if place < len(items) else None)
        pen.text((left + swatch + 6, top + step // 2), text, fill=_INK, font=font, anchor="lm")
    return strip


def below(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Two images, one below the other."""
    whole = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), _PAPER)
    whole.paste(upper, (0, 0))
    whole.paste(lower, (0, upper.height))
    return whole


def panels(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Images side by side under their titles."""
    gap, step = 8, _line_height(images[0].width)
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    whole = Image.new("RGB", (width, step + max(image.height for image in images)), _PAPER)
    pen, left = ImageDraw.Draw(whole), 0
    for image, title in zip(images, titles, strict=True):
        pen.text((left + image.width / 2, step / 2), title, fill=_INK, font=_font(image.width), anchor="mm")
        whole.paste(image, (left, step))
        left += image.width + gap
    return whole


def jpeg(image: Image.Image, most_bytes: int | None = None) -> bytes:
    """The image as a JPEG file; with `most_bytes` at the quality, and if need be the size, that fits into as many."""
    while True:
        for quality in (90, 82, 74, 66, 58):
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=quality, optimize=True)
            content = stream.getvalue()
            if most_bytes is None or len(content) <= most_bytes:
                return content
        image = image.resize((max(1, image.width * 4 // 5), max(1, image.height * 4 // 5)), Image.Resampling.LANCZOS)


def _stripes(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Diagonals over (h, w)."""
    rows, columns = np.indices(shape)
    stripes: NDArray[np.bool_] = (rows + columns) % _STRIPES < 2
    return stripes


def _outlines(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pixels (h, w) whose right or lower neighbour is of another class."""
    edges = np.zeros(classes.shape, dtype=bool)
    edges[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    edges[:-1] |= classes[:-1] != classes[1:]
    return edges


def _middle_of(where: NDArray[np.bool_]) -> tuple[int, int] | None:
    """A pixel (x, y) that lies deep inside the region (h, w); None: it is too small."""
    if where.mean() < _SMALLEST_REGION:
        return None
    step = max(1, max(where.shape) // 96)
    left = np.pad(where[::step, ::step], 1)
    if not left.any():
        return None
    while True:
        inner = left.copy()
        inner[1:] &= left[:-1]
        inner[:-1] &= left[1:]
        inner[:, 1:] &= left[:, :-1]
        inner[:, :-1] &= left[:, 1:]
        if not inner.any():
            row, column = np.argwhere(left)[len(np.argwhere(left)) // 2]
            return int(column - 1) * step, int(row - 1) * step
        left = inner


def _write_number(image: Image.Image, place: tuple[int, int], number: int) -> None:
    font, pen = _font(image.width), ImageDraw.Draw(image)
    margin = round(font.size)
    x = min(max(place[0], margin), max(image.width - margin, margin))
    y = min(max(place[1], margin), max(image.height - margin, margin))
    pen.text((x, y), str(number), fill=_PAPER, font=font, anchor="mm", stroke_width=2, stroke_fill=_INK)


def _write_at(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], corner: tuple[float, float], text: str, colour: Colour
) -> None:
    """Write above a box's upper left corner, inside the image."""
    if not text:
        return
    font = _font(max(size), smaller=True)
    text = _shortened(text, _LONGEST_NAME)
    width, height = font.getlength(text) + 6, font.size + 4
    left = min(max(corner[0], 0), max(size[0] - width, 0))
    top = corner[1] - height if corner[1] >= height else corner[1]
    top = min(max(top, 0), max(size[1] - height, 0))
    pen.rectangle((left, top, left + width, top + height), fill=colour)
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    pen.text((left + 3, top + height / 2), text, fill=_INK if light else _PAPER, font=font, anchor="lm")


def _rectangle(pen: ImageDraw.ImageDraw, corners: Sequence[float], colour: Colour, line: Line, width: int) -> None:
    left, top, right, bottom = corners
    for start, end in (
        ((left, top), (right, top)),
        ((right, top), (right, bottom)),
        ((right, bottom), (left, bottom)),
        ((left, bottom), (left, top)),
    ):
        _stroke(pen, start, end, colour, line, width)


def _stroke(
    pen: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: Colour,
    line: Line,
    width: int,
) -> None:
    """A line with a light edge, so that it is seen on dark and on light ground."""
    for ink, wide in ((_PAPER, width + 2), (colour, width)):
        for one, other in _pieces(start, end, line, width):
            pen.line((*one, *other), fill=ink, width=wide)


def _pieces(
    start: tuple[float, float], end: tuple[float, float], line: Line, width: int
) -> Iterable[tuple[tuple[float, float], tuple[float, float]]]:
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    drawn, free = (width * part for part in _DASHES[line])
    if line == "solid" or length <= drawn:
        yield start, end
        return
    across, down = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    at = 0.0
    while at < length:
        stop = min(at + drawn, length)
        yield (start[0] + across * at, start[1] + down * at), (start[0] + across * stop, start[1] + down * stop)
        at += drawn + free


def _swatch(strip: Image.Image, place: tuple[int, int], side: int, entry: Entry | None) -> None:
    index = IGNORE if entry is None else entry.number - 1
    plain = entry is not None and entry.name.lower() == _BACKGROUND
    colour = _GREY if entry is None else _PAPER if plain else colour_of(index)
    pixels = np.full((side, side, 3), colour, dtype=np.uint8)
    if entry is None or index >= len(COLOURS):
        pixels[_stripes((side, side))] = 80 if entry is None else 235
    pixels[[0, -1]] = pixels[:, [0, -1]] = _INK
    strip.paste(Image.fromarray(pixels), place)


def _font(width: int, *, smaller: bool = False) -> ImageFont.FreeTypeFont:
    """Pillow's own font, in a size that goes with an image of this width."""
    size = min(max(width / 30, 12), 32) - (1 if smaller else 0)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType: it cannot write into images")
    return font


def _line_height(width: int) -> int:
    return round(1.5 * _font(width).size)


def _shortened(text: str, longest: int) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= longest else f"{one_line[: longest - 1]}…"
