"""Mask files: the class, or the instance, of every pixel, read from the values that the file holds, never converted."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from thawline.datasets import image_files
from thawline.datasets.image_files import UnreadableImageError
from thawline.datasets.looks import Looks, Stamp, in_threads, stamp
from thawline.datasets.targets import IGNORE, Look, Objects, Size, as_objects
from thawline.errors import usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

EXTENSIONS = frozenset([".png", ".bmp", ".gif", ".tif", ".tiff"])
"""Of files that keep every value; JPEG, and often WebP, do not."""
_FORMATS = ("PNG", "BMP", "GIF", "TIFF")
_PNG, _PNG_BITS, _TIFF, _BITS_PER_SAMPLE = b"\x89PNG", 24, (b"II", b"MM"), 0x0102
_MOST_VALUES = 2**16
_MOST_LISTED = 5
_NO_CLASS = IGNORE + 1
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
        if not (indices == _NO_CLASS).any():
            return ()
        found = packed_colors(content) if self.colors else mask_values(content).astype(np.int64)
        wrong = np.where(indices == _NO_CLASS, found, -1)
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
        table = np.full(_MOST_VALUES, _NO_CLASS, dtype=np.uint16)
        table[list(self.values)] = np.arange(len(self.values))
        table[list(self.ignored)] = IGNORE
        return table

    def _by_color(self, packed: NDArray[np.int64]) -> NDArray[np.uint16]:
        known = np.array([_packed(color) for color in (*self.colors, *self.ignored_colors)], dtype=np.int64)
        meanings = np.array([*range(len(self.colors)), *[IGNORE] * len(self.ignored_colors)], dtype=np.uint16)
        order = np.argsort(known, kind="stable")
        places = np.minimum(np.searchsorted(known[order], packed), len(known) - 1)
        return np.where(known[order][places] == packed, meanings[order][places], np.uint16(_NO_CLASS))


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


@dataclass(frozen=True, eq=False)
class MaskFile:
    """The mask of one image (`thawline.datasets.targets.Mask`), a file."""

    path: Path
    coding: MaskCoding
    sha256: str
    present: frozenset[int]

    def read(self) -> NDArray[np.uint8]:
        """(H, W) class indices in the pixels of the upright image; `IGNORE` where nothing is labelled.

        Raises:
            UsageError: the file cannot be read any more, or has other values than at first; names it.
        """
        indices = _read(self.path, self.coding.indices)
        if (indices == _NO_CLASS).any():
            raise _changed(self.path)
        mask: NDArray[np.uint8] = indices.astype(np.uint8)
        return mask


@dataclass(frozen=True, eq=False)
class InstanceFile:
    """The objects' masks of one image (`thawline.datasets.targets.InstanceMasks`): a file with a value for each.

    Attributes:
        path: The file.
        values: (n,) the value of each object's pixels.
        sha256: Of the file's values.
    """

    path: Path
    values: tuple[int, ...]
    sha256: str

    def read(self, size: Size) -> NDArray[np.uint8]:
        """(n, H, W) zeros and ones; raises UsageError where the file changed."""
        found = _read(self.path, mask_values)
        if found.shape != size:
            raise _changed(self.path)
        masks: NDArray[np.bool_] = found[None] == np.array(self.values, dtype=np.int64)[:, None, None]
        return masks.astype(np.uint8)


class _FileLook(NamedTuple):
    """What a mask file holds, whatever its image is, in values that JSON gives back as they are."""

    digest: str = ""
    present: Sequence[int] = ()
    size: Sequence[int] = (0, 0)
    unreadable: str | None = None
    mistakes: Sequence[str] = ()
    objects: Sequence[Sequence[int]] = ()


@dataclass(frozen=True)
class MaskFiles:
    """Masks that are files, one for each image (`thawline.datasets.targets.Annotations`).

    Attributes:
        root: The folder that the paths are relative to.
        paths: The mask of each image.
        coding: What the values of the files mean.
        images: The images' paths, for messages.
    """

    kind: ClassVar[str] = "mask"

    root: Path
    paths: Sequence[str]
    coding: MaskCoding
    images: Sequence[str]

    def locate(self, index: int) -> str:
        """The mask's path."""
        return str(self.root / self.paths[index])

    def inspect(self, indices: Sequence[int], sizes: Sequence[Size], cache_dir: Path | None) -> list[Look]:
        """Decode every mask and check its values and its size."""
        found = _look_at(self.root, [self.paths[i] for i in indices], self.coding.name, self._examine, cache_dir)
        return [
            Look(
                look.digest,
                frozenset(look.present),
                look.unreadable,
                (*look.mistakes, *_misfit(look, size, self.images[index])),
            )
            for index, look, size in zip(indices, found, sizes, strict=True)
        ]

    def targets(self, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[Any]:
        """(n,) masks; raises UsageError where all show one and the same class, from which nothing can be learned."""
        shown = frozenset[int]().union(*(look.present for look in looks))
        if len(shown) < 2:
            (label,) = shown or {0}
            only = (
                f"value {self.coding.values[label]}"
                if self.coding.values
                else f"colour {list(self.coding.colors[label])}"
            )
            message = f"all masks show a single class, of {only}: is another one ignored ({self.coding.ignoring})?"
            raise usage_error("dataset", message)
        return as_objects(
            [
                MaskFile(self.root / self.paths[index], self.coding, look.digest, look.present)
                for index, look in zip(indices, looks, strict=True)
            ]
        )

    def _examine(self, content: bytes) -> _FileLook:
        indices = self.coding.indices(content)
        present = [label for label in np.unique(indices).tolist() if label < IGNORE]
        return _FileLook(_digest(indices), present, indices.shape, None, self.coding.mistakes(content, indices))


@dataclass(frozen=True)
class InstanceFiles:
    """Objects that are files, one for each image, with a value for each object (`Annotations`).

    Attributes:
        root: The folder that the paths are relative to.
        paths: The file of each image.
        ignored: The values that are no object, beside 0.
        labels: For each image the class of each value; None: every object is of class 0.
        images: The images' paths, for messages.
    """

    kind: ClassVar[str] = "instances"

    root: Path
    paths: Sequence[str]
    ignored: tuple[int, ...]
    labels: Sequence[Mapping[int, int]] | None
    images: Sequence[str]

    def locate(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.paths[index])

    def inspect(self, indices: Sequence[int], sizes: Sequence[Size], cache_dir: Path | None) -> list[Look]:
        """Decode every file, find the box of each object, and check their classes and the size."""
        coding = f"instances without {sorted(self.ignored)}"
        found = _look_at(self.root, [self.paths[i] for i in indices], coding, self._examine, cache_dir)
        return [self._looked(index, look, size) for index, look, size in zip(indices, found, sizes, strict=True)]

    def targets(self, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[Any]:
        """(n,) objects with masks."""
        return as_objects([self._objects(index, look) for index, look in zip(indices, looks, strict=True)])

    def _looked(self, index: int, look: _FileLook, size: Size) -> Look:
        values = [item[0] for item in look.objects]
        known = self._known(index, values)
        mistakes = [f"the object of value {value} has no class in the table" for value in values if value not in known]
        labelled = hashlib.sha256(repr((look.digest, [known.get(value) for value in values])).encode()).hexdigest()
        return Look(
            labelled,
            frozenset(known[value] for value in values if value in known),
            look.unreadable,
            (*mistakes, *_misfit(look, size, self.images[index])),
            objects=tuple(tuple(item) for item in look.objects),
            size=size,
        )

    def _known(self, index: int, values: Sequence[int]) -> Mapping[int, int]:
        return dict.fromkeys(values, 0) if self.labels is None else self.labels[index]

    def _objects(self, index: int, look: Look) -> Objects:
        values = tuple(item[0] for item in look.objects)
        known = self._known(index, values)
        return Objects(
            boxes=np.array([item[1:] for item in look.objects], dtype=np.float32).reshape(-1, 4),
            labels=np.array([known[value] for value in values], dtype=np.int64),
            crowd=np.zeros(len(values), dtype=np.bool_),
            size=look.size,
            instances=InstanceFile(self.root / self.paths[index], values, look.digest),
        )

    def _examine(self, content: bytes) -> _FileLook:
        values = mask_values(content).astype(np.uint16)
        own = [value for value in np.unique(values).tolist() if value and value not in self.ignored]
        return _FileLook(_digest(values), size=values.shape, objects=[[value, *_box(values == value)] for value in own])


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """xmin, ymin, xmax, ymax of the pixels that are set; right and bottom are exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _look_at(
    root: Path, paths: Sequence[str], coding: str, examine: Callable[[bytes], _FileLook], cache_dir: Path | None
) -> list[_FileLook]:
    """Decode every file once; again only after it, or what its values mean, has changed."""
    known = Looks.load("masks", root, cache_dir)

    def look(path: str) -> tuple[Stamp | None, _FileLook]:
        try:
            stamped = stamp(root / path)
            found = _file_look(known.of(path, stamped), coding)
            return stamped, found or _examined((root / path).read_bytes(), examine)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            return None, _FileLook(unreadable=f"cannot be read: {reason}")

    found = in_threads("reading the annotations", look, paths)
    known.save(
        {
            path: (stamped, [coding, *map(_plain, values)])
            for path, (stamped, values) in zip(paths, found, strict=True)
            if stamped is not None
        }
    )
    return [values for _, values in found]


def _examined(content: bytes, examine: Callable[[bytes], _FileLook]) -> _FileLook:
    try:
        return examine(content)
    except UnreadableImageError as error:
        return _FileLook(unreadable=str(error))
    except WrongMaskError as error:
        return _FileLook(mistakes=(str(error),))


def _file_look(found: list[Any] | None, coding: str) -> _FileLook | None:
    """What an earlier look found, where it is whole and of the same coding."""
    match found:
        case [str(name), str(), [*_], [int(), int()], str() | None, [*_], [*objects]] if name == coding:
            whole = all(isinstance(item, list) and len(item) == 5 for item in objects)
            return _FileLook(*found[1:]) if whole else None
    return None


def _plain(value: Any) -> Any:
    """Lists for tuples, at any depth."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _misfit(look: _FileLook, size: Size, image: str) -> tuple[str, ...]:
    """That a mask has another size than its upright image."""
    own = (look.size[0], look.size[1])
    if own in (size, (0, 0)) or size == (0, 0):
        return ()
    turned = (
        "; the image is turned upright as its EXIF data say, and its mask must be, too" if own == size[::-1] else ""
    )
    return (f"{own[1]} x {own[0]} pixels, and the image {image} has {size[1]} x {size[0]}{turned}",)


def _read(path: Path, decode: Callable[[bytes], NDArray[Any]]) -> NDArray[Any]:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise usage_error("dataset", f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnreadableImageError, WrongMaskError) as error:
        raise usage_error("dataset", f"{path}: not a usable mask: {error}") from None


def _changed(path: Path) -> Exception:
    return usage_error("dataset", f"{path}: the mask has changed since the data set was checked")


def _digest(values: NDArray[np.uint16]) -> str:
    digest = hashlib.sha256(f"{values.shape[1]} x {values.shape[0]}\n".encode())
    digest.update(values.astype("<u2").tobytes())
    return digest.hexdigest()
