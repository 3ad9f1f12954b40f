"""Images that each have one class: classes to keep, cuts and subsets with the same share of every class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thawline.datasets.columns import ArrayColumn
from thawline.datasets.cuts import cut, first_of_each_class
from thawline.datasets.pools import Candidates, Pool, first_few, listed
from thawline.datasets.splits import PARTS, Collection, Inspection, Part
from thawline.datasets.targets import Look
from thawline.errors import Problem, UsageError, counted, nearest, usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassLooks(ArrayColumn[Look]):
    """The classes of n images: `labels` (n,) count through `names`."""

    names: Sequence[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, place: int) -> Look:
        """The look at the image of a place."""
        label = int(self.labels[place])
        return Look(self.names[label], frozenset([label]))

    def taken(self, places: NDArray[np.int64]) -> ClassLooks:
        """Those of the images at these places."""
        return ClassLooks(self.names, self.labels[places])


@dataclass(frozen=True)
class ByClass:
    """How images with one class each are chosen and divided.

    Attributes:
        classes: Names or indices of the classes to keep; None: all.
        n_per_class: Training images kept of each class; None: all.
        fraction: Share of the training images kept, the same of each class; None: all.
    """

    classes: Sequence[int | str] | None
    n_per_class: int | None
    fraction: float | None

    def candidates(self, collection: Collection) -> Candidates:
        """The images of the chosen classes, in the order of their keys."""
        images = collection.images
        kept, mistakable = _chosen(self.classes, collection.classes)
        # The order of the keys, so that the fingerprint fixes which image an index stands for.
        wanted = sorted(np.flatnonzero(np.isin(images.targets, kept)).tolist(), key=images.key)
        return Candidates(np.array(wanted, dtype=np.int64), kept, mistakable)

    def looks(
        self, collection: Collection, found: Candidates, inspections: Sequence[Inspection], cache_dir: Path | None
    ) -> Sequence[Look]:
        """The class of each image, under its new number."""
        names = [collection.classes[label] for label in found.kept]
        return ClassLooks(names, np.searchsorted(found.kept, collection.images.targets[found.indices]))

    def targets(self, collection: Collection, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[np.int64]:
        """(n,) the new numbers of the classes."""
        if not isinstance(looks, ClassLooks):
            raise TypeError("images that are divided by class have one each")
        return looks.labels

    def check(self, pool: Pool) -> None:
        """Every part that has images must have all classes."""
        present = [part for part in PARTS if part in pool.parts]
        if "train" not in present:
            raise usage_error("dataset", "there are no training images")
        part_of = np.asarray(pool.parts)
        problems = [
            Problem("dataset.classes", f"classes differ between the splits: {pool.classes[label]!r} is not in {part}")
            for part in present
            for label in np.setdiff1d(np.arange(len(pool.classes)), pool.images.targets[part_of == part])
        ]
        if problems:
            raise UsageError(problems)

    def cut(
        self, pool: Pool, train: NDArray[np.int64], share: float, part: Part, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same share of every class; copies of an image stay on one side."""
        counts = np.bincount(pool.images.targets[train], minlength=len(pool.classes))
        if counts.min() < 2:
            name = pool.classes[int(counts.argmin())]
            there = counted(int(counts.min()), "training image")
            raise usage_error("dataset", f"class {name!r} has {there}: no {part} part can be cut from it")
        rest, chosen = cut(pool.keys, pool.images.targets, train, share, part, seed, pool.pixels_number)
        _check_cut(pool, chosen, part)
        return rest, chosen

    def subset(self, pool: Pool, train: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """As many, or the same share, of every class."""
        if self.n_per_class is None and self.fraction is None:
            return train
        counts = np.bincount(pool.images.targets[train], minlength=len(pool.classes))
        if self.n_per_class is not None and counts.min() < self.n_per_class:
            short = pool.classes[int(counts.argmin())]
            there = counted(int(counts.min()), "training image")
            message = f"{self.n_per_class} are asked for, but class {short!r} has {there}"
            raise usage_error("dataset.n_per_class", message)
        return first_of_each_class(pool.keys, pool.images.targets, train, self.n_per_class, self.fraction, seed)

    def remarks(self, pool: Pool, indices: Mapping[Part, NDArray[np.int64]]) -> list[str]:
        """Which classes a limited part lacks, and a warning where the same image has several classes."""
        lacking = {
            part: np.bincount(pool.images.targets[indices[part]], minlength=len(pool.classes)) == 0 for part in PARTS
        }
        if lacking["train"].any():
            message = f"{lacking['train'].sum()} of {len(pool.classes)} classes would have no training image"
            raise usage_error("dataset.n_train_val", message)
        few = int(lacking["val"].sum())
        warnings = [f"{few} of {len(pool.classes)} classes have no validation image"] if few else []
        labels, content = pool.images.targets, pool.pixels_number
        lowest = np.full(len(labels), len(pool.classes), dtype=np.int64)
        np.minimum.at(lowest, content, labels)
        mixed = np.zeros(len(labels), dtype=np.bool_)
        mixed[content[labels != lowest[content]]] = True
        several = [pool.keys[index] for index in np.flatnonzero(mixed[content]).tolist()]
        if several:
            warnings.append(f"{len(several)} images have a copy in another class: {listed(several, 4)}")
        return warnings


def _chosen(wanted: Sequence[int | str] | None, names: Sequence[str]) -> tuple[list[int], list[str]]:
    """The indices of the wanted classes, ascending, and a warning for each number that may be meant otherwise."""
    if wanted is None:
        wanted = list(names)
    chosen: list[int] = []
    problems: list[Problem] = []
    warnings: list[str] = []
    strange: list[str] = []
    beyond: list[int] = []
    for item in wanted:
        named = _named(item, names)
        index = item if named is None else named
        if isinstance(item, int) and named is not None and named != item and 0 <= item < len(names):
            warnings.append(
                f"dataset.classes: {item} is taken as the class called {names[named]!r}, not as the index of "
                f"{names[item]!r}"
            )
        if isinstance(index, str):
            strange.append(index)
        elif not 0 <= index < len(names):
            beyond.append(index)
        elif index in chosen:
            problems.append(Problem("dataset.classes", f"class {names[index]!r} is named twice"))
        else:
            chosen.append(index)
    problems = [*_missing(strange, beyond, names), *problems]
    if not problems and len(chosen) < 2:
        problems.append(Problem("dataset.classes", f"at least two classes are needed, not {len(chosen)}"))
    if problems:
        raise UsageError(problems)
    return sorted(chosen), warnings


def _missing(strange: Sequence[str], beyond: Sequence[int], names: Sequence[str]) -> Iterator[Problem]:
    """The names and indices that no class has: each name that is near one, the others in one line."""
    far = []
    for name in strange:
        if near := nearest(name, names):
            yield Problem("dataset.classes", f"the set has no class {name!r}{near}")
        else:
            far.append(repr(name))
    if far:
        yield Problem("dataset.classes", f"the set has no class {first_few(far)}; there are {first_few(names)}")
    if beyond:
        indices = [str(index) for index in beyond]
        yield Problem("dataset.classes", f"there is no class {first_few(indices)}: the set has {len(names)}, from 0")


def _named(item: int | str, names: Sequence[str]) -> int | None:
    """The index of the class that an item names, if it is a name: 1 also names "01" where nothing is called "1"."""
    if str(item) in names:
        return names.index(str(item))
    padded = [
        index for index, name in enumerate(names) if isinstance(item, int) and name.isdecimal() and int(name) == item
    ]
    return padded[0] if len(padded) == 1 else None


def _check_cut(pool: Pool, part: NDArray[np.int64], name: Part) -> None:
    """A class of which all images are copies of one another cannot be on both sides."""
    for label in np.setdiff1d(np.arange(len(pool.classes)), pool.images.targets[part]):
        raise usage_error(
            "dataset",
            f"class {pool.classes[label]!r} has too few different images: no {name} part can be cut from it without "
            "copies of its training images",
        )
