"""Stratified orders of images that show any number of classes, and the cuts and subsets that are their beginnings.

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
from typing import TYPE_CHECKING

import numpy as np

from thawline.datasets.cuts import ranked, rounded
from thawline.datasets.pools import Pool
from thawline.datasets.splits import Part
from thawline.errors import usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOTHING = -1
"""Stands for the class of the images that show none."""


def first_of(pool: Pool, indices: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """The first `count` of the images `indices` (n,) in the stratified order of the seed, ascending."""
    order = ranked(pool.keys, indices, "subset", seed).tolist()
    spread_out = spread(order, {index: pool.looks[index].present for index in order}, lambda _: True)
    return np.sort(np.array(spread_out[:count], dtype=np.int64))


def cut_part(
    pool: Pool, indices: NDArray[np.int64], share: float, part: Part, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the images `indices` (n,) into a rest and a part of `share`, both ascending.

    Of every class some images stay in the rest; copies of an image stay on one side. So the part may have fewer.

    Raises:
        UsageError: no image can be taken.
    """
    groups: dict[str, list[int]] = {}
    for index in indices.tolist():
        groups.setdefault(pool.contents[index], []).append(index)
    members = {group[0]: group for group in groups.values()}
    shown = {first: shown_by(pool, group) for first, group in members.items()}
    most = min(max(rounded(len(indices) * share), 1), len(indices) - 1)
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
    return np.setdiff1d(indices, chosen, assume_unique=True), chosen


def shown_by(pool: Pool, indices: Sequence[int]) -> frozenset[int]:
    """The classes that the images show together."""
    return frozenset(label for index in indices for label in pool.looks[index].present)


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
