"""What every data set comes down to: images with labels and keys, and which of them are train, val and test.

Cuts and subsets rank the images of a class by a hash of (purpose, data seed, key). So which images are drawn does
not depend on their order on disk, nor on the other classes, and a smaller subset is the beginning of a larger one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from thawline.datasets.targets import Annotations, Size
from thawline.randomness import counter_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Images(Protocol):
    """Images with their targets, addressed by index."""

    @property
    def targets(self) -> NDArray[Any]:
        """The target of each image, (N, ...); of classification the class, (N,) int64."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image:
        """The image, in RGB."""
        ...

    def key(self, index: int) -> str:
        """The image's name: unique in the data set and the same on every machine."""
        ...


class Inspection(NamedTuple):
    """What a look at one image found.

    Attributes:
        digest: The SHA-256 of its content.
        problem: Why it cannot be used; None: it can.
        pixels: A digest of its decoded pixels: images with the same one look the same.
        remarks: What of it is not used, such as further frames.
        size: (height, width) of the upright image in pixels; zeros with a problem.
    """

    digest: str
    problem: str | None = None
    pixels: str = ""
    remarks: tuple[str, ...] = ()
    size: Size = (0, 0)


class InspectableImages(Images, Protocol):
    """Images that can also be inspected: hashed, and checked that they decode."""

    def locate(self, index: int) -> str:
        """Where a person finds the image, for messages."""
        ...

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> list[Inspection]:
        """One inspection per index; what is known from an earlier look may be kept in `cache_dir`."""
        ...


@dataclass(frozen=True)
class Collection:
    """What a data set holds before anything is drawn from it.

    Attributes:
        images: N images; where there are no annotations, their targets count through `classes`.
        classes: The class names.
        parts: The part of each image by the set's own division. Where no image is in val or in test, that part is
            cut from train.
        warnings: What a reader of the results has to know of how they were found.
        left_out: How many files lie among them and are not part of the set, by ending.
        annotations: What the set says of each image, in the order of the images; None: its class alone.
    """

    images: InspectableImages
    classes: tuple[str, ...]
    parts: tuple[Part, ...]
    warnings: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    annotations: Annotations | None = None

    @property
    def target(self) -> str:
        """What kind of target each image has (`Splits.target`)."""
        return "class" if self.annotations is None else self.annotations.kind


@dataclass(frozen=True)
class Subset:
    """Some images of `source`, renumbered: `positions` (N,) point into it, `targets` (N, ...) are the new ones."""

    source: Images
    positions: NDArray[np.int64]
    targets: NDArray[Any]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, index: int) -> Image:
        """The image, in RGB."""
        return self.source.read(int(self.positions[index]))

    def key(self, index: int) -> str:
        """The image's key in the source."""
        return self.source.key(int(self.positions[index]))


@dataclass(frozen=True)
class Split:
    """One part of a data set: `indices` (n,) into `images`, ascending."""

    images: Images
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def targets(self) -> NDArray[Any]:
        """The target of each sample, (n, ...)."""
        return self.images.targets[self.indices]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The name of each sample, in order."""
        return tuple(self.images.key(int(index)) for index in self.indices)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the keys in order: two splits with the same digest hold the same samples."""
        return _sha256_of_lines(json.dumps(key) for key in self.keys)


@dataclass(frozen=True)
class Splits:
    """A loaded data set. The three splits share one `Images` and have no sample in common.

    Attributes:
        train: The labelled training samples, after the choice of a subset.
        val: The samples that select epoch, depth and learning rate.
        test: The samples that are looked at once; None: they stay closed.
        classes: The class names, if the targets are classes.
        fingerprint: SHA-256 of the content of all images, whichever part or subset they are in.
        notes: What a reader of the record has to know, such as which parts were cut.
        warnings: What a reader of the results has to know before believing them, such as images that are in two parts.
        left_out: How many files lie among the images and are not part of the set, by ending; folders end in a slash.
        contents: For each image of `images` a digest of its pixels: the same for images that look the same.
        target: What kind of target each image has (`thawline.tasks.Task.TARGET`).
        closed: The samples of a test split that stays closed, (n,): no run reads, decodes or stores them.
    """

    train: Split
    val: Split
    test: Split | None
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    contents: tuple[str, ...] = ()
    target: str = "class"
    closed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def opened(self) -> dict[str, Split]:
        """The splits that may be read, by name."""
        splits = {"train": self.train, "val": self.val}
        return splits if self.test is None else {**splits, "test": self.test}

    def without_test(self) -> Splits:
        """The same set with its test split closed."""
        return self if self.test is None else dataclasses.replace(self, test=None, closed=self.test.indices)

    @property
    def images(self) -> Images:
        """The images that all three splits index."""
        return self.train.images

    def copies(self, split: Split, *others: tuple[Splits, Part]) -> int:
        """How many images of a split of this set are also, pixel for pixel, in parts of other sets."""
        seen = {
            other.contents[index]
            for other, part in others
            if other.contents and part in other.opened
            for index in other.opened[part].indices
        }
        return sum(self.contents[index] in seen for index in split.indices) if self.contents else 0


@runtime_checkable
class Dataset(Protocol):
    """What a run needs of a data set."""

    def check(self) -> None:
        """Look, cheaply and without reading images, whether the set is there; raises UsageError."""
        ...

    def load(self, data_seed: int, cache_dir: Path | None = None) -> Splits:
        """The set with its splits and subsets drawn by `data_seed`; raises UsageError."""
        ...


def fingerprint(keys: Sequence[str], class_names: Sequence[str], digests: Sequence[str]) -> str:
    """The SHA-256 of the sorted (key, class name, content digest) of all images."""
    return _sha256_of_lines(sorted(json.dumps(item) for item in zip(keys, class_names, digests, strict=True)))


def ranked(keys: Sequence[str], indices: NDArray[np.int64], purpose: str, data_seed: int) -> NDArray[np.int64]:
    """`indices` (n,) in a random order that is a function of the purpose, the data seed and each sample's own key."""
    # A file name that is no valid text holds surrogates, which cannot be hashed as they stand.
    names = [keys[index].encode("utf-8", "surrogateescape").decode("latin-1") for index in indices]
    ranks = [counter_seed(purpose, data_seed, name) for name in names]
    return indices[np.argsort(np.array(ranks, dtype=np.int64), kind="stable")]


def cut(
    keys: Sequence[str],
    labels: NDArray[np.int64],
    indices: NDArray[np.int64],
    share: float,
    purpose: str,
    seed: int,
    contents: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide `indices` (n,) into a rest and a part of `share`, the same share of every class.

    Samples with equal `contents` stay on one side, whatever their classes: then a class may get fewer than its share.
    Every class keeps at least one sample on both sides, where its contents allow; the caller checks that.
    """
    groups: dict[str, list[int]] = {}
    for index in indices.tolist():
        groups.setdefault(keys[index] if contents is None else contents[index], []).append(index)
    firsts = {members[0]: members for members in groups.values()}
    order = ranked(keys, np.array(list(firsts), dtype=np.int64), purpose, seed)
    sizes = Counter(labels[indices].tolist())
    room = Counter({label: min(max(_rounded(size * share), 1), size - 1) for label, size in sizes.items()})
    taken: list[int] = []
    served: set[int] = set()
    for first in order.tolist():
        needed = Counter(labels[firsts[first]].tolist())
        if all(room[label] >= count for label, count in needed.items()):
            room -= needed
            served |= needed.keys()
            taken += firsts.pop(first)
    for label in sorted(sizes.keys() - served):
        taken += _smallest_group(label, labels, firsts, sizes - Counter(labels[taken].tolist()))
    part = np.sort(np.array(taken, dtype=np.int64))
    return np.setdiff1d(indices, part, assume_unique=True), part


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
    chosen: list[NDArray[np.int64]] = []
    for label in np.unique(labels[indices]):
        members = indices[labels[indices] == label]
        count = n_per_class if n_per_class is not None else max(_rounded(len(members) * (share or 1.0)), 1)
        chosen.append(ranked(keys, members, "subset", seed)[:count])
    return np.sort(np.concatenate(chosen))


def _rounded(value: float) -> int:
    """Half a sample counts as one: Python's own rounding would send 0.5 and 2.5 down but 1.5 up."""
    return int(value + 0.5)


def _sha256_of_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()
