"""What a reader is shown of the objects in an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from thawline.tasks.shown import Row, Shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_MOST_NAMED = 4
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class ShownObject:
    """One object, in the image's own pixels.

    Attributes:
        box: xmin, ymin, xmax, ymax; right and bottom exclusive.
        index: of its class.
        score: of a detection; None: it is true.
        crowd: whether it is a region with many objects.
        runs: of its mask, column by column, zeros first, as COCO has them; None: its box alone is known.
    """

    box: tuple[float, float, float, float]
    index: int
    score: float | None = None
    crowd: bool = False
    runs: NDArray[np.int32] | None = None


@final
@dataclass(frozen=True)
class FoundObjects(Shown):
    """The objects of an image.

    Attributes:
        objects: of detections the highest score first.
        size: (h, w) of the image in pixels.
        names: of the classes.
    """

    HAS_SCORES: ClassVar[bool] = True

    objects: tuple[ShownObject, ...]
    size: tuple[int, int]
    names: tuple[str, ...]

    def summary(self) -> Mapping[str, str]:
        """How many objects there are, and of which classes."""
        counts = Counter(self.names[item.index] for item in self.objects).most_common(_MOST_NAMED)
        return {"objects": str(len(self.objects)), "classes": ", ".join(f"{name} {n}" for name, n in counts)}

    def facts(self) -> Mapping[str, Any]:
        """``width``, ``height`` and ``objects``: class, score, box and, where it is known, the mask as COCO's RLE."""
        return {"width": self.size[1], "height": self.size[0], "objects": [self._facts(item) for item in self.objects]}

    def rows(self) -> Sequence[Row]:
        """A row for each object."""
        return [{"class": self.names[item.index], "score": _score(item), **_corners(item.box)} for item in self.objects]

    def columns(self) -> Sequence[str]:
        """Class, score and corners."""
        return "class", "score", *_CORNERS

    def drawn(self, image: Image, side: int) -> Image:
        """The image with a box around each object: solid what was found, dashed what is true, dotted a crowd."""
        from thawline.tasks.drawing import with_boxes

        return with_boxes(image, [self._marked(item) for item in reversed(self.objects)], side)

    def _facts(self, item: ShownObject) -> dict[str, Any]:
        said: dict[str, Any] = {"class": self.names[item.index]}
        if item.score is not None:
            said["score"] = item.score
        said["box"] = list(item.box)
        if item.runs is not None:
            said["mask"] = {"size": list(self.size), "counts": item.runs.tolist()}
        return said

    def _marked(self, item: ShownObject) -> Any:
        from thawline.tasks.drawing import Line, Marked

        mask = None
        if item.runs is not None:
            from thawline.tasks.instance_segmentation.masks import mask_of

            mask = mask_of(item.runs, self.size)
        line: Line = "dotted" if item.crowd else "solid" if item.score is not None else "dashed"
        name = self.names[item.index]
        text = f"{name} (crowd)" if item.crowd else name if item.score is None else f"{name} {item.score:.2f}"
        return Marked(item.box, item.index, text, mask, line)


def _score(item: ShownObject) -> float | str:
    return "" if item.score is None else item.score


def _corners(box: tuple[float, float, float, float]) -> dict[str, float]:
    return dict(zip(_CORNERS, box, strict=True))
