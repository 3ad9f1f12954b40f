"""Annotations that are files with a value for every pixel: the class in a mask, or which object it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from thawline.datasets.image_files import UnreadableImageError
from thawline.datasets.looks import Looking, OpenFile, changed
from thawline.datasets.mask_values import MaskCoding, WrongMaskError, mask_values
from thawline.datasets.targets import IGNORE, Look, Objects, Size, as_objects
from thawline.errors import usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        if _digest(indices) != self.sha256:
            raise changed("mask", self.path)
        mask: NDArray[np.uint8] = indices.astype(np.uint8)
        return mask


@dataclass(frozen=True, eq=False)
class InstanceFile:
    """The objects' masks of one image (`thawline.datasets.targets.InstanceMasks`): a file with a value for each.

    Attributes:
        path: The file.
        values: (n,) the value of each object's pixels.
        labels: (n,) the class of each object.
        sha256: Of the file's values and these classes.
    """

    path: Path
    values: tuple[int, ...]
    labels: tuple[int, ...]
    sha256: str

    def read(self, size: Size) -> NDArray[np.uint8]:
        """(n, H, W) zeros and ones; raises UsageError where the file changed."""
        found = _read(self.path, mask_values)
        if found.shape != size or _labelled(_digest(found), self.labels) != self.sha256:
            raise changed("mask", self.path)
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
        return Look(
            _labelled(look.digest, [known.get(value) for value in values]),
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
        labels = tuple(known[value] for value in values)
        return Objects(
            boxes=np.array([item[1:] for item in look.objects], dtype=np.float32).reshape(-1, 4),
            labels=np.array(labels, dtype=np.int64),
            crowd=np.zeros(len(values), dtype=np.bool_),
            size=look.size,
            instances=InstanceFile(self.root / self.paths[index], values, labels, look.digest),
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
    looking = Looking(
        "reading the annotations",
        "masks",
        root,
        paths,
        opened=lambda index: OpenFile(root / paths[index]),
        examine=lambda content: json.dumps([coding, *_examined(content, examine)]).encode(),
        usable=lambda value: json.loads(value)[0] == coding,
    )
    found = looking.all(cache_dir)
    return [
        _FileLook(unreadable=found.unread[index]) if index in found.unread else _FileLook(*json.loads(value)[1:])
        for index, value in enumerate(found.values)
    ]


def _examined(content: bytes, examine: Callable[[bytes], _FileLook]) -> _FileLook:
    try:
        return examine(content)
    except UnreadableImageError as error:
        return _FileLook(unreadable=str(error))
    except WrongMaskError as error:
        return _FileLook(mistakes=(str(error),))


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


def _labelled(digest: str, labels: Sequence[int | None]) -> str:
    """The digest of a file's values and of the classes of its objects."""
    return hashlib.sha256(repr((digest, [*labels])).encode()).hexdigest()


def _digest(values: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{values.shape[1]} x {values.shape[0]}\n".encode())
    digest.update(values.astype("<u2").tobytes())
    return digest.hexdigest()
