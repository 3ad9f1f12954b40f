"""How images with one class each are cut into parts, and which of them a subset has.

Cuts and subsets rank the images of a class by a hash of (purpose, data seed, key). So which images are drawn does
not depend on their order on disk, nor on the other classes, and a smaller subset is the beginning of a larger one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thawline.randomness import counter_seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def ranked(keys: Sequence[str], indices: NDArray[np.int64], purpose: str, data_seed: int) -> NDArray[np.int64]:
    """`indices` (n,) in a random order that is a function of the purpose, the data seed and each sample's own key."""
    # A file name that is no valid text holds surrogates, which cannot be hashed as they stand.
    names = (keys[index].encode("utf-8", "surrogateescape").decode("latin-1") for index in indices.tolist())
    return indices[np.argsort(counter_seeds((purpose, data_seed), names), kind="stable")]


def cut(
    keys: Sequence[str],
    labels: NDArray[np.int64],
    indices: NDArray[np.int64],
    share: float,
    purpose: str,
    seed: int,
    contents: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide `indices` (n,) into a rest and a part of `share`, the same share of every class.

    Samples with equal `contents` stay on one side, whatever their classes: then a class may get fewer than its share.
    Every class keeps at least one sample on both sides, where its contents allow; the caller checks that.
    """
    firsts, copies = _groups(contents, indices)
    label_of = labels.tolist()
    sizes = np.bincount(labels[indices])
    room = [min(max(rounded(size * share), 1), size - 1) for size in sizes.tolist()]
    untouched = list(room)
    taken: list[int] = []
    left: list[int] = []
    for first in ranked(keys, firsts, purpose, seed).tolist():
        members = copies.get(first, [first])
        needed = Counter(map(label_of.__getitem__, members)) if first in copies else {label_of[first]: 1}
        if all(room[label] >= count for label, count in needed.items()):
            for label, count in needed.items():
                room[label] -= count
            taken += members
        else:
            left.append(first)
    counts = dict(enumerate(sizes.tolist()))
    unserved = [label for label, size in counts.items() if size and room[label] == untouched[label]]
    groups = {first: copies.get(first, [first]) for first in sorted(left)} if unserved else {}
    for label in unserved:
        taken += _smallest_group(label, labels, groups, Counter(counts) - Counter(labels[taken].tolist()))
    part = np.sort(np.array(taken, dtype=np.int64))
    return np.setdiff1d(indices, part, assume_unique=True), part


def _groups(contents: NDArray[np.int64], indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[int, list[int]]]:
    """The first index of each content, ascending, and all indices of a content that has several, by the first."""
    order = indices[np.argsort(contents[indices], kind="stable")]
    starts = np.flatnonzero(np.diff(contents[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    several = {
        int(order[start]): order[start : start + size].tolist()
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True)
    }
    return np.sort(order[starts]), several


def _smallest_group(
    label: int, labels: NDArray[np.int64], groups: dict[int, list[int]], left: Counter[int]
) -> list[int]:
    """Take the smallest group with a sample of the class that leaves every class one; nothing where there is none."""
    for first, members in sorted(groups.items(), key=lambda item: (len(item[1]), item[0])):
        needed = Counter(labels[members].tolist())
        if label in needed and all(left[other] > count for other, count in needed.items()):
            return groups.pop(first)
    return []


def first_of_each_class(
    keys: Sequence[str],
    labels: NDArray[np.int64],
    indices: NDArray[np.int64],
    n_per_class: int | None,
    share: float | None,
    seed: int,
) -> NDArray[np.int64]:
    """A class-balanced subset of `indices` (n,): `n_per_class` samples of each class, or the same share of each.

    For one seed, a subset with fewer samples lies inside every subset with more, however it is asked for.
    """
    by_class = indices[np.argsort(labels[indices], kind="stable")]
    chosen: list[NDArray[np.int64]] = []
    for members in np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1):
        count = n_per_class if n_per_class is not None else max(rounded(len(members) * (share or 1.0)), 1)
        chosen.append(ranked(keys, members, "subset", seed)[:count])
    return np.sort(np.concatenate(chosen))


def rounded(value: float) -> int:
    """Half a sample counts as one: Python's own rounding would send 0.5 and 2.5 down but 1.5 up."""
    return int(value + 0.5)
