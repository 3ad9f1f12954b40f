"""What the values of mask files mean: read as the file holds them, never converted."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.datasets import image_files
from thawline.datasets.targets import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

EXTENSIONS = frozenset([".png", ".bmp", ".gif", ".tif", ".tiff"])
"""Of files that keep every value; JPEG, and often WebP, do not."""
_FORMATS = ("PNG", "BMP", "GIF", "TIFF")
_PNG, _PNG_BITS, _TIFF, _BITS_PER_SAMPLE = b"\x89PNG", 24, (b"II", b"MM"), 0x0102
_MOST_VALUES = 2**16
_MOST_LISTED = 5
NO_CLASS = IGNORE + 1
"""What a value that is no class and is not ignored becomes."""
_WITHOUT_ALPHA = {"RGBA": "RGB", "LA": "L"}

Color = tuple[int, int, int]


class WrongMaskError(ValueError):
    """The file is a whole image and holds no values that can be read as they are; says why."""


@dataclass(frozen=True)
class MaskCoding:
    """What the values of mask files mean.

    Attributes:
        values: The value of each class; empty where `colors` are given.
        ignored: The values that are no class and are ignored.
        colors: The colour of each class, where colours stand for classes.
        ignored_colors: The colours that are no class and are ignored.
    """

    values: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    colors: tuple[Color, ...] = ()
    ignored_colors: tuple[Color, ...] = ()

    @property
    def name(self) -> str:
        """A digest: codings of the same name read a file alike."""
        return hashlib.sha256(repr((self.values, self.ignored, self.colors, self.ignored_colors)).encode()).hexdigest()

    def indices(self, content: bytes) -> NDArray[np.uint16]:
        """(H, W) the class index of every pixel of a mask file; `IGNORE`, or 256 where there is no such class.

        Raises:
            UnreadableImageError: the bytes do not decode.
            WrongMaskError: they hold colours where values are needed, or transparency.
        """
        if self.colors:
            return self._by_color(packed_colors(content))
        indices: NDArray[np.uint16] = self._table[mask_values(content)]
        return indices

    def mistakes(self, content: bytes, indices: NDArray[np.uint16]) -> tuple[str, ...]:
        """What of a mask's values is of no class, with the place where each is first found."""
        if not (indices == NO_CLASS).any():
            return ()
        found = packed_colors(content) if self.colors else mask_values(content).astype(np.int64)
        wrong = np.where(indices == NO_CLASS, found, -1)
        values, counts = np.unique(wrong[wrong >= 0], return_counts=True)
        lines = []
        for value, count in zip(values.tolist()[:_MOST_LISTED], counts.tolist(), strict=False):
            row, column = np.argwhere(wrong == value)[0].tolist()
            shown = f"colour {list(_unpacked(value))}" if self.colors else f"value {value}"
            lines.append(f"{shown} is of no class ({count} pixels, the first in row {row}, column {column}, from 0)")
        more = len(values) - _MOST_LISTED
        end = [f"and {more} more {'colours' if self.colors else 'values'}; {self._known()}"] if more > 0 else []
        return (*lines[:-1], f"{lines[-1]}; {self._known()}") if not end else (*lines, *end)

    def _known(self) -> str:
        if self.colors:
            return f"dataset.colors gives {len(self.colors)} colours, and {len(self.ignored_colors)} to ignore"
        return f"classes have the values {_ranges(self.values)}, {self.ignoring}"

    @property
    def ignoring(self) -> str:
        """What is ignored, in words."""
        ignored = [list(color) for color in self.ignored_colors] if self.colors else self.ignored
        return f"ignored: {', '.join(map(str, ignored))}" if ignored else "none is ignored"

    @cached_property
    def _table(self) -> NDArray[np.uint16]:
        table = np.full(_MOST_VALUES, NO_CLASS, dtype=np.uint16)
        table[list(self.values)] = np.arange(len(self.values))
        table[list(self.ignored)] = IGNORE
        return table

    def _by_color(self, packed: NDArray[np.int64]) -> NDArray[np.uint16]:
        known = np.array([_packed(color) for color in (*self.colors, *self.ignored_colors)], dtype=np.int64)
        meanings = np.array([*range(len(self.colors)), *[IGNORE] * len(self.ignored_colors)], dtype=np.uint16)
        order = np.argsort(known, kind="stable")
        places = np.minimum(np.searchsorted(known[order], packed), len(known) - 1)
        return np.where(known[order][places] == packed, meanings[order][places], np.uint16(NO_CLASS))


def mask_values(content: bytes) -> NDArray[np.integer[Any]]:
    """(H, W) the values of a mask file as they are, below 65,536: of a palette file its indices.

    Raises:
        UnreadableImageError: the bytes do not decode.
        WrongMaskError: the file holds colours, transparency or other values.
    """
    image = _opaque(_decoded(content))
    if image.mode in ("RGB", "CMYK", "YCbCr"):
        raise WrongMaskError("it holds colours and no class values: give each class's colour by dataset.colors")
    if image.mode == "F":
        raise WrongMaskError("it holds floating-point numbers: save class values as whole numbers")
    values = np.asarray(image)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.min() < 0 or values.max() >= _MOST_VALUES:
        raise WrongMaskError(f"it holds values from {values.min()} to {values.max()}: they must fit into 16 bits")
    return values // _stretched(content) if image.mode == "L" else values


def packed_colors(content: bytes) -> NDArray[np.int64]:
    """(H, W) the colour of every pixel of a mask file as one number; of a palette file the colours of its palette.

    Raises:
        UnreadableImageError: the bytes do not decode.
        WrongMaskError: the file holds transparency, or more than 8 bits.
    """
    image = _opaque(_decoded(content))
    if image.mode not in ("RGB", "P", "L", "1"):
        raise WrongMaskError(f"its values (mode {image.mode}) are no colours of 8 bits")
    # Of these modes every value has exactly one colour: nothing is rounded or dithered.
    colors = np.asarray(image.convert("RGB")).astype(np.int64)
    packed: NDArray[np.int64] = colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
    return packed


def _decoded(content: bytes) -> Image:
    image = image_files.stored(content)
    if image.format not in _FORMATS:
        raise WrongMaskError(f"a {image.format} file need not keep the values: save the mask as PNG")
    return image


def _opaque(image: Image) -> Image:
    """The image without a band of transparency that is opaque everywhere."""
    if "A" not in image.getbands() and "a" not in image.getbands():
        # A value that a viewer would not show is a value like the others.
        image.info.pop("transparency", None)
        return image
    if image.mode not in _WITHOUT_ALPHA or image.getchannel("A").getextrema() != (255, 255):
        raise WrongMaskError("it has an alpha channel that is not opaque everywhere: save it without transparency")
    return image.convert(_WITHOUT_ALPHA[image.mode])


def _stretched(content: bytes) -> int:
    """By how much Pillow multiplied the grey values: it stretches 2 and 4 bits to the range of 8."""
    bits = content[_PNG_BITS] if content.startswith(_PNG) else _tiff_bits(content) if content[:2] in _TIFF else 8
    return {2: 85, 4: 17}.get(bits, 1)


def _tiff_bits(content: bytes) -> int:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["TIFF"]) as image:
        return int(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))[0])


def _packed(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _unpacked(packed: int) -> Color:
    return packed >> 16, packed >> 8 & 255, packed & 255


def _ranges(values: Sequence[int]) -> str:
    if list(values) == list(range(values[0], values[0] + len(values))) and len(values) > 1:
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
