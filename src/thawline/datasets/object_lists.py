"""Objects that a data set lists for each image: their boxes are checked against the image, and become targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thawline.datasets.images import FileImages
from thawline.datasets.pools import listed
from thawline.datasets.segments import Segments, problem
from thawline.datasets.splits import Collection, Part
from thawline.datasets.targets import Look, Objects, Size, as_objects
from thawline.errors import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOLERANCE = 1.0
"""How many pixels a box may reach beyond its image, as rounding makes it; it is cut at the edge."""
_ROUNDING = 1e-3
"""Of a pixel: what shares of an image with six digits are off by."""
_CUT = "boxes that reach beyond the image by up to a pixel: they are cut at its edge"


class Listed(NamedTuple):
    """One object as a data set lists it.

    Attributes:
        where: Which one it is in its file, for messages.
        box: xmin, ymin, xmax, ymax in pixels of the upright image; right and bottom are exclusive.
        label: Its class.
        crowd: Whether it is a crowd, or need not be found.
        outline: Its mask as COCO writes it (`thawline.datasets.segments`); None: it has none.
    """

    where: str
    box: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    outline: Any = None


@dataclass(frozen=True)
class ObjectLists:
    """The objects of each image (`thawline.datasets.targets.Annotations`).

    Attributes:
        objects: For each image its objects.
        places: For each image where its objects are listed.
        stated: For each image (height, width) as the data set states it; None: it does not.
        outlined: Whether each object has an outline: then the targets have masks.
        shares: Whether boxes are in shares of the image, and not in pixels.
    """

    objects: Sequence[Sequence[Listed]]
    places: Sequence[str]
    stated: Sequence[Size | None]
    outlined: bool = False
    shares: bool = False

    @property
    def kind(self) -> str:
        """Objects with boxes, or with masks."""
        return "instances" if self.outlined else "boxes"

    def locate(self, index: int) -> str:
        """Where the objects are listed."""
        return self.places[index]

    def inspect(self, indices: Sequence[int], sizes: Sequence[Size], cache_dir: Path | None) -> list[Look]:
        """Check every box against its image. There is nothing to keep: this is as fast as reading."""
        return [self._look(index, size) for index, size in zip(indices, sizes, strict=True)]

    def targets(self, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[Any]:
        """(n,) objects."""
        return as_objects([self._made(index, look.size) for index, look in zip(indices, looks, strict=True)])

    def _look(self, index: int, size: Size) -> Look:
        # An image that does not decode has no size: nothing can be said of its boxes.
        if size == (0, 0):
            return Look("")
        items = self._in_pixels(index, size)
        mistakes = [said for item in items for said in self._wrong(item, size)]
        stated = self.stated[index]
        if stated is not None and stated != size:
            turned = "; the image is turned upright as its EXIF data say" if stated == size[::-1] else ""
            said = f"it states {stated[1]} x {stated[0]} pixels, and the image has {size[1]} x {size[0]}{turned}"
            mistakes.insert(0, said)
        remarks = (_CUT,) if any(_beyond(item.box, size) > _ROUNDING for item in items) else ()
        objects = self._made(index, size)
        return Look(objects.sha256, objects.present, None, tuple(mistakes), remarks, size=size)

    def _in_pixels(self, index: int, size: Size) -> Sequence[Listed]:
        items = self.objects[index]
        if not self.shares:
            return items
        height, width = size
        return [
            item._replace(box=(item.box[0] * width, item.box[1] * height, item.box[2] * width, item.box[3] * height))
            for item in items
        ]

    def _wrong(self, item: Listed, size: Size) -> list[str]:
        if not all(map(math.isfinite, item.box)) or _beyond(item.box, size) > _TOLERANCE:
            shown = ", ".join(f"{value:g}" for value in item.box)
            return [f"{item.where}: the box {shown} lies outside its image of {size[1]} x {size[0]} pixels"]
        said = problem(item.outline, size) if self.outlined else None
        return [f"{item.where}: {said}"] if said else []

    def _made(self, index: int, size: Size) -> Objects:
        items = self._in_pixels(index, size)
        boxes = np.array([item.box for item in items], dtype=np.float64).reshape(-1, 4)
        cut = np.clip(boxes, 0, [size[1], size[0]] * 2).astype(np.float32)
        return Objects(
            boxes=cut,
            labels=np.array([item.label for item in items], dtype=np.int64),
            crowd=np.array([item.crowd for item in items], dtype=np.bool_),
            size=size,
            instances=Segments(tuple(item.outline for item in items)) if self.outlined else None,
        )


def listed_objects(
    root: Path,
    paths: Sequence[str],
    classes: Sequence[str],
    parts: Sequence[Part],
    objects: ObjectLists,
    *,
    flat: Sequence[str],
    left_out: Mapping[str, int],
) -> Collection:
    """A data set of image files whose objects are listed.

    Args:
        root: The folder that the paths are relative to.
        paths: Of the images.
        classes: The names of the classes.
        parts: Of each image its part.
        objects: Of each image its objects.
        flat: Where boxes of no area are, which are left out.
        left_out: How many files are not part of the set, by kind.
    """
    images = FileImages(root, paths, as_objects([None] * len(paths)))
    return Collection(images, tuple(classes), tuple(parts), tuple(_no_area(flat)), left_out, objects)


def _no_area(places: Sequence[str]) -> list[str]:
    """A warning of the boxes that have no area."""
    if not places:
        return []
    return [f"{counted(len(places), 'box').replace('boxs', 'boxes')} of no area left out: {listed(places, 4)}"]


def _beyond(box: tuple[float, float, float, float], size: Size) -> float:
    """By how many pixels a box reaches beyond an image; a whole box outside does so by infinity."""
    xmin, ymin, xmax, ymax = box
    height, width = size
    if xmin >= width or ymin >= height or xmax <= 0 or ymax <= 0:
        return math.inf
    return max(-xmin, -ymin, xmax - width, ymax - height, 0.0)
