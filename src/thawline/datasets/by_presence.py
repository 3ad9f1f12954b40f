"""Images with masks, objects, several classes or numbers: cuts and subsets by image, stratified on what images show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.datasets.cuts import rounded
from thawline.datasets.pools import Candidates, Pool, listed
from thawline.datasets.splits import PARTS, Collection, Inspection, Part
from thawline.datasets.stratified import cut_part, first_of, shown_by
from thawline.datasets.targets import Annotations, Look
from thawline.errors import usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ByPresence:
    """How images are divided of which each shows any number of classes, or none.

    Attributes:
        n_images: Training images kept; None: all.
        fraction: Share of the training images kept; None: all.
    """

    n_images: int | None
    fraction: float | None

    def candidates(self, collection: Collection) -> Candidates:
        """All images, in the order of their keys."""
        images = collection.images
        order = np.array(sorted(range(len(images)), key=images.key), dtype=np.int64)
        return Candidates(order, list(range(len(collection.classes))), [])

    def looks(
        self, collection: Collection, found: Candidates, inspections: Sequence[Inspection], cache_dir: Path | None
    ) -> list[Look]:
        """A look at each annotation."""
        sizes = [inspection.size for inspection in inspections]
        return _annotations(collection).inspect(found.indices.tolist(), sizes, cache_dir)

    def targets(self, collection: Collection, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[Any]:
        """(n, ...) what the annotations say."""
        return _annotations(collection).targets(indices, looks)

    def check(self, pool: Pool) -> None:
        """There must be training images."""
        if "train" not in pool.parts:
            raise usage_error("dataset", "there are no training images")

    def cut(
        self, pool: Pool, train: NDArray[np.int64], share: float, part: Part, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of every class some images stay in the rest; copies of an image stay on one side."""
        return cut_part(pool, train, share, part, seed)

    def subset(self, pool: Pool, train: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """The beginning of the stratified order."""
        if self.n_images is None and self.fraction is None:
            return train
        count = self.n_images or max(rounded(len(train) * (self.fraction or 1.0)), 1)
        if count > len(train):
            raise usage_error("dataset.n_images", f"{count} are asked for, but there are {len(train)} training images")
        return first_of(pool, train, count, seed)

    def remarks(self, pool: Pool, indices: Mapping[Part, NDArray[np.int64]]) -> list[str]:
        """Which classes are not shown where they are needed, and copies with different annotations."""
        if not pool.classes:
            return _relabelled(pool)
        shown = {part: shown_by(pool, indices[part].tolist()) for part in PARTS}
        for part, labels in shown.items():
            if not labels:
                raise usage_error("dataset", f"a part with no object: no {part} image shows any class")
        # Evaluation on classes that training lacks comes with scarce labels: a warning, not refused.
        warnings = [
            f"no training image shows the class {pool.classes[label]!r}, which is in {' and '.join(where)}"
            for label in sorted((shown["val"] | shown["test"]) - shown["train"])
            if (where := [part for part in ("val", "test") if label in shown[part]])
        ]
        nowhere = [name for label, name in enumerate(pool.classes) if not any(label in s for s in shown.values())]
        if nowhere:
            what = "the class" if len(nowhere) == 1 else f"{len(nowhere)} classes:"
            warnings.append(f"no image shows {what} {listed([repr(name) for name in nowhere], 4)}")
        return [*warnings, *_relabelled(pool)]


def _annotations(collection: Collection) -> Annotations:
    if collection.annotations is None:
        raise TypeError("a data set of annotated images collects annotations")
    return collection.annotations


def _relabelled(pool: Pool) -> list[str]:
    said: dict[str, set[str]] = {}
    for content, look in zip(pool.contents, pool.looks, strict=True):
        said.setdefault(content, set()).add(look.digest)
    several = [key for key, content in zip(pool.keys, pool.contents, strict=True) if len(said[content]) > 1]
    return [f"{len(several)} images have a copy with another annotation: {listed(several, 4)}"] if several else []
