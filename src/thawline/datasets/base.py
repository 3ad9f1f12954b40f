"""What all data sets have in common: which images are for training, validation and test, and how many are kept."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from thawline.datasets.by_class import ByClass
from thawline.datasets.by_presence import ByPresence
from thawline.datasets.columns import chosen
from thawline.datasets.dividing import Amounts, divided
from thawline.datasets.inspections import Inspections
from thawline.datasets.pools import MOST_NAMED, Division, Pool, listed, shortened
from thawline.datasets.splits import Collection, Part, Split, Splits, Subset, fingerprint
from thawline.datasets.targets import Annotations, Look
from thawline.errors import Problem, UsageError, counted
from thawline.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def names_alone(value: Any) -> Any:
    """Names of classes as they are given, one message for all numbers among them: elsewhere these are indices."""
    if isinstance(value, list) and any(isinstance(item, (bool, int, float)) for item in value):
        names = ",".join(f'"{str(item).lower() if isinstance(item, bool) else item}"' for item in value)
        raise ValueError(
            f"classes are given by name here; a name that is a number is quoted: 'dataset.classes=[{names}]'"
        )
    return value


class DividedDataset(Spec):
    """Base of every data set: an adapter says what there is (`collect`), and this draws train, val and test from it.

    Attributes:
        fraction: Share of the training images kept; null keeps all.
        val_fraction: Share of the training images that becomes the validation part where the set has none: cut by
            the data seed, stratified, before the subset is drawn.
        test_fraction: Share that becomes the test part where the set has none: cut stratified, the same images for
            every data seed.
        n_train_val: Images kept of training and validation together, of which `val_fraction` are for validation; null
            keeps all. Stratified, by the data seed; fewer are part of more.
        on_unreadable: An image that cannot be decoded stops the run (error), or is left out and noted (skip).
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"n_train_val"})

    fraction: float | None = Field(None, gt=0, le=1)
    val_fraction: float = Field(0.2, gt=0, lt=1)
    test_fraction: float = Field(0.2, gt=0, lt=1)
    on_unreadable: Literal["error", "skip"] = "error"
    n_train_val: int | None = Field(None, ge=2)

    @abstractmethod
    def check(self) -> None:
        """Look, cheaply and without reading images, whether the set is there; raises UsageError."""

    @abstractmethod
    def collect(self) -> Collection:
        """All images of the set with their targets and parts, nothing drawn yet; raises UsageError."""

    @abstractmethod
    def division(self) -> Division:
        """How images are chosen and divided."""

    def load(self, data_seed: int, cache_dir: Path | None = None) -> Splits:
        """The set with its splits and subsets.

        Args:
            data_seed: Decides the validation part (where one is cut) and the subset of the training part.
            cache_dir: A folder that may keep the digests of files between runs.

        Raises:
            UsageError: the set is not there, an image does not decode, a target is wrong, the parts do not fit
                together, or there are too few images for what is asked.
        """
        self.check()
        collection, division = self.collect(), self.division()
        pool = self._pool(collection, division, cache_dir)
        division.check(pool)
        amounts = Amounts(self.val_fraction, self.test_fraction, self.n_train_val)
        indices, notes = divided(pool, division, amounts, data_seed)
        indices["train"] = division.subset(pool, indices["train"], data_seed)
        return Splits(
            train=Split(pool.images, indices["train"]),
            val=Split(pool.images, indices["val"]),
            test=Split(pool.images, indices["test"]),
            classes=pool.classes,
            fingerprint=fingerprint(pool.keys, (look.digest for look in pool.looks), pool.digests),
            notes=tuple(notes),
            warnings=(
                *collection.warnings,
                *pool.warnings,
                *division.remarks(pool, indices),
                *_repeated(indices, pool),
            ),
            left_out=dict(sorted(collection.left_out.items())),
            contents=pool.contents,
            target=collection.target,
        )

    def pool(self, cache_dir: Path | None = None) -> Pool:
        """The usable images with their targets, before parts are cut and subsets drawn; raises UsageError as `load`."""
        return self._pool(self.collect(), self.division(), cache_dir)

    def _pool(self, collection: Collection, division: Division, cache_dir: Path | None) -> Pool:
        images, said = collection.images, collection.annotations
        found = division.candidates(collection)
        inspections = Inspections.of(images.inspect(found.indices.tolist(), cache_dir))
        looks = division.looks(collection, found, inspections, cache_dir)
        bad = inspections.problems
        bad_targets = {} if said is None else _unreadable(looks, bad)
        out = dict(sorted((bad | bad_targets).items()))
        places = np.delete(np.arange(len(looks)), [*out])
        good, good_looks = found.indices[places], chosen(looks, places)
        problems: list[Problem] = []
        if self.on_unreadable == "error":
            problems = _remedied(_unreadable_problems(collection, found.indices, bad, bad_targets))
        if said is not None:
            problems += _mistakes(said, good, good_looks)
        if problems:
            raise UsageError(problems)
        keys = [*map(images.key, good.tolist())]
        left_out = [f"{images.key(int(found.indices[place]))}: {why}" for place, why in out.items()]
        return Pool(
            images=Subset(images, good, division.targets(collection, good.tolist(), good_looks)),
            keys=keys,
            digests=chosen(inspections.digests, places),
            contents=chosen(inspections.pixels, places),
            looks=good_looks,
            parts=[collection.parts[index] for index in good.tolist()],
            classes=tuple(collection.classes[label] for label in found.kept),
            warnings=[
                *found.warnings,
                *([f"{counted(len(out), 'unreadable image')} left out: {listed(left_out)}"] if out else []),
                *_remarks(keys, places, inspections, () if said is None else good_looks),
            ],
        )


class ImageDataset(DividedDataset):
    """Base of the data sets whose images have one class each.

    Attributes:
        n_per_class: Training images kept of each class; null keeps all.
        fraction: Share of the training images kept, the same of each class; null keeps all.
        classes: Names or indices of the classes to keep; labels are renumbered in the set's own order. Null keeps all.
            A number that is the name of a class stands for that class; only other numbers are indices.
    """

    n_per_class: int | None = Field(None, ge=1)
    classes: list[Annotated[int | str, BeforeValidator(_class_reference)]] | None = None

    @model_validator(mode="after")
    def _one_subset(self) -> ImageDataset:
        _require_one(n_per_class=self.n_per_class, fraction=self.fraction, n_train_val=self.n_train_val)
        return self

    def division(self) -> Division:
        """By class: parts and subsets have the same share of each."""
        return ByClass(self.classes, self.n_per_class, self.fraction)


class AnnotatedDataset(DividedDataset):
    """Base of the data sets whose images have masks, objects, several classes or numbers (`Collection.annotations`).

    Attributes:
        n_images: Training images kept; null keeps all. Of a data seed, a smaller subset is part of every larger one.
        fraction: Share of the training images kept; null keeps all.
    """

    n_images: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_subset(self) -> AnnotatedDataset:
        _require_one(n_images=self.n_images, fraction=self.fraction, n_train_val=self.n_train_val)
        return self

    def division(self) -> Division:
        """By image: parts and subsets show each class about as often as the whole."""
        return ByPresence(self.n_images, self.fraction)


def _require_one(**amounts: float | None) -> None:
    given = [name for name, amount in amounts.items() if amount is not None]
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} {'both' if len(given) == 2 else 'all'} choose a subset: give one of them"
        )


def _remedied(problems: list[Problem]) -> list[Problem]:
    if not problems:
        return []
    more = f"{len(problems) - MOST_NAMED} more; " if len(problems) > MOST_NAMED else ""
    remedy = Problem("dataset.on_unreadable", f"{more}set it to skip to leave such images out")
    return [*problems[:MOST_NAMED], remedy]


def _unreadable(looks: Sequence[Look], bad: Mapping[int, str]) -> dict[int, str]:
    """By place, why an annotation does not decode; not of images that are bad themselves."""
    return {place: look.unreadable for place, look in enumerate(looks) if look.unreadable and place not in bad}


def _unreadable_problems(
    collection: Collection, indices: NDArray[np.int64], bad: Mapping[int, str], bad_targets: Mapping[int, str]
) -> list[Problem]:
    images, said = collection.images, collection.annotations
    problems = [f"unreadable image {images.locate(int(indices[place]))}: {why}" for place, why in sorted(bad.items())]
    if said is not None:
        problems += [
            f"unreadable annotation {said.locate(int(indices[place]))}: {why}" for place, why in bad_targets.items()
        ]
    return [Problem("dataset", problem) for problem in problems]


def _mistakes(said: Annotations, indices: NDArray[np.int64], looks: Sequence[Look]) -> list[Problem]:
    """What is wrong with what the set says of its images."""
    return shortened(
        [
            Problem("dataset", f"{said.locate(index)}: {mistake}")
            for index, look in zip(indices.tolist(), looks, strict=True)
            for mistake in look.mistakes
        ]
    )


def _repeated(indices: dict[Part, NDArray[np.int64]], pool: Pool) -> list[str]:
    """A warning for each pair of parts that share images: the same bytes, or the same pixels in other bytes."""
    warnings = []
    pairs: tuple[tuple[Part, Part], ...] = (("val", "train"), ("test", "train"), ("test", "val"))
    for later, earlier in pairs:
        members, before = indices[later], indices[earlier]
        same_bytes = np.isin(pool.bytes_number[members], pool.bytes_number[before]).sum()
        copies = members[np.isin(pool.pixels_number[members], pool.pixels_number[before])]
        same_pixels = [pool.keys[index] for index in copies.tolist()]
        if same_pixels:
            how = f"{same_bytes} byte for byte, {len(same_pixels) - same_bytes} pixel for pixel in another file"
            warnings.append(
                f"{len(same_pixels)} of {len(members)} {later} images {_are(same_pixels)} also in {earlier} ({how}), "
                f"so {later} scores are too optimistic: {listed(same_pixels, 3)}"
            )
    return warnings


def _remarks(
    keys: Sequence[str], places: NDArray[np.int64], inspections: Inspections, looks: Sequence[Look]
) -> list[str]:
    """A warning for each kind of thing that images have and that is not used.

    Args:
        keys: Of the n usable images.
        places: (n,) their inspections.
        inspections: Of them and others.
        looks: At what the set says of them, where there may be anything to remark.
    """
    remarked = {place: each.remarks for place, each in inspections.unusual.items() if each.problem is None}
    indices = np.flatnonzero(np.isin(places, [*remarked])).tolist()
    remarks = [(index, remark) for index in indices for remark in remarked[int(places[index])]]
    remarks += [(index, remark) for index, look in enumerate(looks) for remark in look.remarks]
    by_kind: dict[str, list[str]] = {}
    for index, kind in sorted(remarks):
        by_kind.setdefault(kind, []).append(keys[index])
    return [
        f"{counted(len(names), 'image')} with {kind} ({listed(names, 3)})" for kind, names in sorted(by_kind.items())
    ]


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"
