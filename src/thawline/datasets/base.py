"""What all data sets have in common: which classes, which images are for validation and test, how many labels."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from thawline.datasets.splits import (
    PARTS,
    Collection,
    Part,
    Selection,
    Split,
    Splits,
    cut,
    fingerprint,
    first_of_each_class,
)
from thawline.errors import Problem, UsageError, nearest, usage_error
from thawline.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_NAMED = 20
_TEST_SEED = 0
"""The test part is cut by this seed whatever the data seed, so that all runs are evaluated on the same images."""


def _expanded(value: Any) -> Any:
    if value is None or value in ("", "???"):
        raise ValueError("name the folder that holds the images")
    if isinstance(value, (bool, int, float)):
        # A folder may be called 2024.
        value = str(value).lower() if isinstance(value, bool) else str(value)
    return Path(value).expanduser() if isinstance(value, (str, Path)) else value


Folder = Annotated[Path, BeforeValidator(_expanded)]
"""The path of a folder; ``~`` is the home folder."""


def _class_reference(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a class is given by its name or by its index; names such as yes, no, on and off need quotes")
    if isinstance(value, float):
        raise ValueError(
            f"a class is given by its name or by its index; a name is quoted: 'dataset.classes=[\"{value}\"]'"
        )
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


class ImageDataset(Spec):
    """Base of every data set: an adapter says what there is (`collect`), and this draws train, val and test from it.

    Attributes:
        n_per_class: Training images kept of each class; null keeps all.
        fraction: Share of the training images kept, the same of each class; null keeps all.
        val_fraction: Share of the training images that becomes the validation part where the set has none: cut by
            the data seed, stratified, before the subset is drawn.
        test_fraction: Share that becomes the test part where the set has none: cut stratified, the same images for
            every data seed.
        classes: Names or indices of the classes to keep; labels are renumbered in the set's own order. Null keeps all.
            A number that is the name of a class stands for that class; only other numbers are indices.
        on_unreadable: What an image that does not decode does: stop the run (error), or be left out and noted (skip).
    """

    n_per_class: int | None = Field(None, ge=1)
    fraction: float | None = Field(None, gt=0, le=1)
    val_fraction: float = Field(0.2, gt=0, lt=1)
    test_fraction: float = Field(0.2, gt=0, lt=1)
    classes: list[Annotated[int | str, BeforeValidator(_class_reference)]] | None = None
    on_unreadable: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _one_subset(self) -> ImageDataset:
        if self.n_per_class is not None and self.fraction is not None:
            raise ValueError("n_per_class and fraction both choose a subset: give one of them")
        return self

    @abstractmethod
    def check(self) -> None:
        """Look, cheaply and without reading images, whether the set is there; raises UsageError."""

    @abstractmethod
    def collect(self) -> Collection:
        """All images of the set with their labels and parts, nothing drawn yet; raises UsageError."""

    def load(self, data_seed: int, cache_dir: Path | None = None) -> Splits:
        """The set with its splits and subsets.

        Args:
            data_seed: Decides the validation part (where one is cut) and the subset of the training part.
            cache_dir: A folder that may keep the digests of files between runs.

        Raises:
            UsageError: the set is not there, an image does not decode, the parts have different classes, or a class
                has too few images for what is asked.
        """
        self.check()
        collection = self.collect()
        pool = self._pool(collection, cache_dir)
        _check_classes(pool)
        indices = {part: np.flatnonzero(np.asarray(pool.parts) == part).astype(np.int64) for part in PARTS}
        cut_notes = self._cut_missing(pool, indices, data_seed)
        indices["train"] = self._subset(pool, indices["train"], data_seed)
        names = [pool.classes[label] for label in pool.images.targets]
        return Splits(
            train=Split(pool.images, indices["train"]),
            val=Split(pool.images, indices["val"]),
            test=Split(pool.images, indices["test"]),
            classes=pool.classes,
            fingerprint=fingerprint(pool.keys, names, pool.digests),
            notes=tuple(cut_notes),
            warnings=(*collection.warnings, *pool.warnings, *_relabelled(pool), *_repeated(indices, pool)),
            left_out=dict(sorted(collection.left_out.items())),
            contents=tuple(pool.contents),
        )

    def _pool(self, collection: Collection, cache_dir: Path | None) -> _Pool:
        images = collection.images
        kept_classes, mistakable = _chosen(self.classes, collection.classes)
        renumbered = {label: new for new, label in enumerate(kept_classes)}
        # The order of the keys, so that the fingerprint fixes which image an index stands for.
        candidates = sorted((i for i in range(len(images)) if int(images.targets[i]) in renumbered), key=images.key)
        looks = dict(zip(candidates, images.inspect(candidates, cache_dir), strict=True))
        bad = [index for index, look in looks.items() if look.problem]
        if bad and self.on_unreadable == "error":
            raise _unreadable([f"{images.locate(index)}: {looks[index].problem}" for index in bad])
        good = [index for index, look in looks.items() if not look.problem]
        labels = np.array([renumbered[int(images.targets[index])] for index in good], dtype=np.int64)
        left_out = _listed([f"{images.key(index)}: {looks[index].problem}" for index in bad])
        return _Pool(
            images=Selection(images, np.array(good, dtype=np.int64), labels),
            keys=[images.key(index) for index in good],
            digests=[looks[index].digest for index in good],
            classes=tuple(collection.classes[label] for label in kept_classes),
            parts=[collection.parts[index] for index in good],
            contents=[looks[index].pixels for index in good],
            warnings=[
                *mistakable,
                *([f"{_counted(len(bad), 'unreadable image')} left out: {left_out}"] if bad else []),
                *_remarks({images.key(index): looks[index].remarks for index in good}),
            ],
        )

    def _cut_missing(self, pool: _Pool, indices: dict[Part, NDArray[np.int64]], data_seed: int) -> list[str]:
        """Cut what is empty of test and val from train, in place; returns a note for each cut."""
        notes = []
        cuts: tuple[tuple[Part, float, int, str], ...] = (
            ("test", self.test_fraction, _TEST_SEED, "the same for every data seed"),
            ("val", self.val_fraction, data_seed, f"by data seed {data_seed}"),
        )
        for part, share, seed, how in cuts:
            if len(indices[part]):
                continue
            train = indices["train"]
            counts = np.bincount(pool.images.targets[train], minlength=len(pool.classes))
            if counts.min() < 2:
                name = pool.classes[int(counts.argmin())]
                raise usage_error(
                    "dataset", f"class {name!r} has {counts.min()} training images: no {part} part can be cut from it"
                )
            indices["train"], indices[part] = cut(
                pool.keys, pool.images.targets, train, share, part, seed, pool.contents
            )
            _check_cut(pool, indices[part], part)
            alike = len(train) - len({pool.contents[index] for index in train})
            together = f"; {alike} are copies of others, and copies stay in one part" if alike else ""
            notes.append(f"the set has no {part} part: {len(indices[part])} images cut from train, {how}{together}")
        return notes

    def _subset(self, pool: _Pool, train: NDArray[np.int64], data_seed: int) -> NDArray[np.int64]:
        if self.n_per_class is None and self.fraction is None:
            return train
        counts = np.bincount(pool.images.targets[train], minlength=len(pool.classes))
        if self.n_per_class is not None and counts.min() < self.n_per_class:
            short = pool.classes[int(counts.argmin())]
            raise usage_error(
                "dataset.n_per_class",
                f"{self.n_per_class} are asked for, but class {short!r} has {counts.min()} training images",
            )
        return first_of_each_class(pool.keys, pool.images.targets, train, self.n_per_class, self.fraction, data_seed)


@dataclass(frozen=True)
class _Pool:
    """The N readable images of the chosen classes, before they are divided."""

    images: Selection
    keys: Sequence[str]
    digests: Sequence[str]
    classes: tuple[str, ...]
    parts: Sequence[Part]
    contents: Sequence[str]
    warnings: Sequence[str]


def _chosen(wanted: Sequence[int | str] | None, names: Sequence[str]) -> tuple[list[int], list[str]]:
    """The indices of the wanted classes, ascending, and a warning for each number that may be meant otherwise."""
    if wanted is None:
        wanted = list(names)
    chosen: list[int] = []
    problems: list[Problem] = []
    warnings: list[str] = []
    for item in wanted:
        named = _named(item, names)
        index = item if named is None else named
        if isinstance(item, int) and named is not None and named != item and 0 <= item < len(names):
            warnings.append(
                f"dataset.classes: {item} is taken as the class called {names[named]!r}, not as the index of "
                f"{names[item]!r}"
            )
        if isinstance(index, str):
            problems.append(Problem("dataset.classes", f"the set has no class {index!r}{nearest(index, names)}"))
        elif not 0 <= index < len(names):
            problems.append(Problem("dataset.classes", f"there is no class {index}: the set has {len(names)}, from 0"))
        elif index in chosen:
            problems.append(Problem("dataset.classes", f"class {names[index]!r} is named twice"))
        else:
            chosen.append(index)
    if not problems and len(chosen) < 2:
        problems.append(Problem("dataset.classes", f"at least two classes are needed, not {len(chosen)}"))
    if problems:
        raise UsageError(problems)
    return sorted(chosen), warnings


def _named(item: int | str, names: Sequence[str]) -> int | None:
    """The index of the class that an item names, if it is a name: 1 also names "01" where nothing is called "1"."""
    if str(item) in names:
        return names.index(str(item))
    padded = [
        index for index, name in enumerate(names) if isinstance(item, int) and name.isdecimal() and int(name) == item
    ]
    return padded[0] if len(padded) == 1 else None


def _check_classes(pool: _Pool) -> None:
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


def _check_cut(pool: _Pool, part: NDArray[np.int64], name: Part) -> None:
    """A class of which all images are copies of one another cannot be on both sides."""
    for label in np.setdiff1d(np.arange(len(pool.classes)), pool.images.targets[part]):
        raise usage_error(
            "dataset",
            f"class {pool.classes[label]!r} has too few different images: no {name} part can be cut from it without "
            "copies of its training images",
        )


def _unreadable(lines: Sequence[str]) -> UsageError:
    problems = [Problem("dataset", f"unreadable image {line}") for line in lines[:_MOST_NAMED]]
    more = f"{len(lines) - _MOST_NAMED} more; " if len(lines) > _MOST_NAMED else ""
    problems.append(Problem("dataset.on_unreadable", f"{more}set it to skip to leave such images out"))
    return UsageError(problems)


def _repeated(indices: dict[Part, NDArray[np.int64]], pool: _Pool) -> list[str]:
    """A warning for each pair of parts that share images: the same bytes, or the same pixels in other bytes."""
    warnings = []
    pairs: tuple[tuple[Part, Part], ...] = (("val", "train"), ("test", "train"), ("test", "val"))
    for later, earlier in pairs:
        digests = {pool.digests[index] for index in indices[earlier]}
        contents = {pool.contents[index] for index in indices[earlier]}
        members = indices[later]
        same_bytes = sum(pool.digests[index] in digests for index in members)
        same_pixels = [pool.keys[index] for index in members if pool.contents[index] in contents]
        if same_pixels:
            how = f"{same_bytes} byte for byte, {len(same_pixels) - same_bytes} pixel for pixel in another file"
            warnings.append(
                f"{len(same_pixels)} of {len(members)} {later} images {_are(same_pixels)} also in {earlier} ({how}), "
                f"so {later} scores are too optimistic: {_listed(same_pixels, 3)}"
            )
    return warnings


def _relabelled(pool: _Pool) -> list[str]:
    """A warning where the same image has several classes."""
    labels: dict[str, set[int]] = {}
    for content, label in zip(pool.contents, pool.images.targets.tolist(), strict=True):
        labels.setdefault(content, set()).add(label)
    several = [key for key, content in zip(pool.keys, pool.contents, strict=True) if len(labels[content]) > 1]
    return [f"{len(several)} images have a copy in another class: {_listed(several, 4)}"] if several else []


def _remarks(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    """A warning for each kind of thing that images have and that is not used."""
    by_kind: dict[str, list[str]] = {}
    for key, kinds in remarks.items():
        for kind in kinds:
            by_kind.setdefault(kind, []).append(key)
    return [
        f"{_counted(len(keys), 'image')} with {kind} ({_listed(keys, 3)})" for kind, keys in sorted(by_kind.items())
    ]


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _listed(lines: Sequence[str], most: int = _MOST_NAMED) -> str:
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
