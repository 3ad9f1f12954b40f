"""Images with masks, objects, several classes or numbers: cuts and subsets by image, stratified on what images show.

What an image shows is a set of classes, so that no division has the same share of each. The images are taken in an
order of which every beginning is stratified: the next image is always the first, by its rank, of those that show the
class that so far was taken least often for how often it is there (K. Sechidis, G. Tsoumakas and I. Vlahavas, On the
Stratification of Multi-label Data, ECML PKDD 2011, for one part at a time). A subset is a beginning of this order, so
that a smaller one is part of every larger one, and its first images show the rare classes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.datasets.cuts import ranked
from thawline.datasets.pools import Candidates, Pool, listed
from thawline.datasets.splits import PARTS, Collection, Inspection, Part
from thawline.datasets.targets import Annotations, Look
from thawline.errors import usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOTHING = -1
"""Stands for the class of the images that show none."""


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
        groups: dict[str, list[int]] = {}
        for index in train.tolist():
            groups.setdefault(pool.contents[index], []).append(index)
        members = {indices[0]: indices for indices in groups.values()}
        shown = {first: _shown(pool, indices) for first, indices in members.items()}
        most = min(max(_rounded(len(train) * share), 1), len(train) - 1)
        left = Counter(label for labels in shown.values() for label in labels)
        taken: list[int] = []

        def take(first: int) -> bool:
            if len(taken) + len(members[first]) > most or any(left[label] == 1 for label in shown[first]):
                return False
            left.subtract(shown[first])
            taken.extend(members[first])
            return True

        spread(ranked(pool.keys, np.array(list(members), dtype=np.int64), part, seed).tolist(), shown, take)
        if not taken:
            message = f"there are too few different images for a {part} part beside which training shows every class"
            raise usage_error("dataset", message)
        chosen = np.sort(np.array(taken, dtype=np.int64))
        return np.setdiff1d(train, chosen, assume_unique=True), chosen

    def subset(self, pool: Pool, train: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """The beginning of the stratified order."""
        if self.n_images is None and self.fraction is None:
            return train
        count = self.n_images or max(_rounded(len(train) * (self.fraction or 1.0)), 1)
        if count > len(train):
            raise usage_error("dataset.n_images", f"{count} are asked for, but there are {len(train)} training images")
        order = ranked(pool.keys, train, "subset", seed).tolist()
        spread_out = spread(order, {index: pool.looks[index].present for index in order}, lambda _: True)
        return np.sort(np.array(spread_out[:count], dtype=np.int64))

    def remarks(self, pool: Pool, indices: Mapping[Part, NDArray[np.int64]]) -> list[str]:
        """Which classes are not shown where they are needed, and copies with different annotations."""
        if not pool.classes:
            return _relabelled(pool)
        shown = {part: _shown(pool, indices[part].tolist()) for part in PARTS}
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


def spread(order: Sequence[int], shown: Mapping[int, frozenset[int]], take: Callable[[int], bool]) -> list[int]:
    """The items that are taken, so that at any time each class was taken about as often, for how often it is there.

    Args:
        order: The items by their rank: of several that are as good, the first is next.
        shown: The classes that each item shows; items that show none are spread as if they had a class of their own.
        take: Whether an item is taken; asked once for each.
    """
    classes = {item: shown[item] or frozenset([_NOTHING]) for item in order}
    waiting: dict[int, list[int]] = {}
    for item in reversed(order):
        for label in classes[item]:
            waiting.setdefault(label, []).append(item)
    total = {label: len(items) for label, items in waiting.items()}
    have = Counter[int]()

    def urgency(label: int) -> tuple[float, bool, int, int]:
        return have[label] / total[label], label == _NOTHING, total[label], label

    queue = [urgency(label) for label in total]
    heapq.heapify(queue)
    seen: set[int] = set()
    taken: list[int] = []
    while queue:
        entry = heapq.heappop(queue)
        label = entry[-1]
        items = waiting[label]
        while items and items[-1] in seen:
            items.pop()
        if not items:
            continue
        if entry == urgency(label):
            item = items.pop()
            seen.add(item)
            if take(item):
                taken.append(item)
                have.update(classes[item])
        heapq.heappush(queue, urgency(label))
    return taken


def _annotations(collection: Collection) -> Annotations:
    if collection.annotations is None:
        raise TypeError("a data set of annotated images collects annotations")
    return collection.annotations


def _shown(pool: Pool, indices: Sequence[int]) -> frozenset[int]:
    return frozenset(label for index in indices for label in pool.looks[index].present)


def _relabelled(pool: Pool) -> list[str]:
    said: dict[str, set[str]] = {}
    for content, look in zip(pool.contents, pool.looks, strict=True):
        said.setdefault(content, set()).add(look.digest)
    several = [key for key, content in zip(pool.keys, pool.contents, strict=True) if len(said[content]) > 1]
    return [f"{len(several)} images have a copy with another annotation: {listed(several, 4)}"] if several else []


def _rounded(value: float) -> int:
    return int(value + 0.5)
