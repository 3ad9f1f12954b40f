"""What the images of a data set are to be recognised as: masks and objects, beside classes, many classes and numbers.

A data set gives `Annotations`. Each is looked at once, before anything is drawn: what it holds, and what is wrong
with it. Of those that are used the targets are made. A further kind of target is a further class of annotations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORE = 255
"""The index in a mask that is no class: losses and metrics leave such pixels out."""
MOST_CLASSES = IGNORE
"""The classes of a mask are the indices below `IGNORE`."""

Size = tuple[int, int]
"""(height, width) in pixels."""


class Mask(Protocol):
    """The class of every pixel of one image; read anew at each call."""

    @property
    def sha256(self) -> str:
        """Of size and class indices."""
        ...

    @property
    def present(self) -> frozenset[int]:
        """The classes that it shows."""
        ...

    def read(self) -> NDArray[np.uint8]:
        """(H, W) class indices in the pixels of the upright image; `IGNORE` where nothing is labelled."""
        ...


class InstanceMasks(Protocol):
    """The pixels of each object of one image; read anew at each call."""

    @property
    def sha256(self) -> str:
        """Of what the masks are decoded from."""
        ...

    def read(self, size: Size) -> NDArray[np.uint8]:
        """(n, H, W) zeros and ones, in the pixels of the upright image of this size."""
        ...


@dataclass(frozen=True, eq=False)
class Objects:
    """The n objects of one image, in the pixels of the upright image.

    Attributes:
        boxes: (n, 4) xmin, ymin, xmax, ymax in pixels; right and bottom are exclusive.
        labels: (n,) classes, from 0; there is no class for the background.
        crowd: (n,) whether it is a crowd, or an object that nobody is asked to find: neither trained on, nor counted
            as missed, nor as found wrongly.
        size: (H, W) of the image.
        instances: The pixels of each object; None: only boxes are known.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    size: Size
    instances: InstanceMasks | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sha256(self) -> str:
        """Of the boxes, their classes and what the masks are decoded from."""
        digest = hashlib.sha256()
        for values, kind in ((self.boxes, "<f4"), (self.labels, "<i8"), (self.crowd, "?")):
            digest.update(np.ascontiguousarray(values, dtype=kind).tobytes())
        digest.update(b"" if self.instances is None else self.instances.sha256.encode())
        return digest.hexdigest()

    @property
    def present(self) -> frozenset[int]:
        """The classes of the objects; crowds show none."""
        return frozenset(self.labels[~self.crowd].tolist())

    def masks(self, size: Size) -> NDArray[np.uint8]:
        """(n, H, W) zeros and ones; of a data set of `instances` alone.

        Args:
            size: (H, W) of the upright image.
        """
        if self.instances is None:
            raise TypeError("these objects have boxes and no masks")
        return self.instances.read(size)


class Look(NamedTuple):
    """What was found in the annotation of one image.

    Attributes:
        digest: What decides the annotation's share in the data set's fingerprint.
        present: The classes that it shows.
        unreadable: Why its file does not decode; None: it does.
        mistakes: What is wrong with it, each with its value.
        remarks: What of it is not used, in words that are the same for all images of which it holds.
        objects: Of a file of instances, for each: value, xmin, ymin, xmax, ymax.
    size: Of objects, (height, width) of their upright image.
    """

    digest: str
    present: frozenset[int] = frozenset()
    unreadable: str | None = None
    mistakes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    objects: tuple[tuple[int, ...], ...] = ()
    size: Size = (0, 0)


class Annotations(Protocol):
    """What a data set says of its N images, addressed by the images' indices."""

    @property
    def kind(self) -> str:
        """What the targets are (`thawline.datasets.Splits.target`)."""
        ...

    def locate(self, index: int) -> str:
        """Where a person finds the annotation, for messages."""
        ...

    def inspect(self, indices: Sequence[int], sizes: Sequence[Size], cache_dir: Path | None) -> list[Look]:
        """One look for each index; what files held at an earlier look may be kept in `cache_dir`.

        Args:
            indices: Of the images.
            sizes: (height, width) of each of these images, upright.
            cache_dir: A folder for what is kept.
        """
        ...

    def targets(self, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[Any]:
        """The targets of these images, (n, ...), from the looks at them, which found nothing wrong."""
        ...


def as_objects(items: Sequence[object]) -> NDArray[Any]:
    """(n,) of the items themselves: NumPy would take sequences among them apart."""
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array
