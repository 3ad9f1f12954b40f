"""What all data sets have in common: which images are for training, validation and test, and how many are kept."""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from thawline.datasets.by_class import ByClass
from thawline.datasets.by_presence import ByPresence
from thawline.datasets.pools import MOST_NAMED, Division, Pool, counted, listed, shortened
from thawline.datasets.splits import PARTS, Collection, Part, Split, Splits, Subset, fingerprint
from thawline.datasets.targets import Look
from thawline.errors import Problem, UsageError
from thawline.specs import Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


class DividedDataset(Spec):
    """Base of every data set: an adapter says what there is (`collect`), and this draws train, val and test from it.

    Attributes:
        fraction: Share of the training images kept; null keeps all.
        val_fraction: Share of the training images that becomes the validation part where the set has none: cut by
            the data seed, stratified, before the subset is drawn.
        test_fraction: Share that becomes the test part where the set has none: cut stratified, the same images for
            every data seed.
        on_unreadable: What an image that does not decode does: stop the run (error), or be left out and noted (skip).
    """

    fraction: float | None = Field(None, gt=0, le=1)
    val_fraction: float = Field(0.2, gt=0, lt=1)
    test_fraction: float = Field(0.2, gt=0, lt=1)
    on_unreadable: Literal["error", "skip"] = "error"

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
        indices = {part: np.flatnonzero(np.asarray(pool.parts) == part).astype(np.int64) for part in PARTS}
        cut_notes = self._cut_missing(pool, division, indices, data_seed)
        indices["train"] = division.subset(pool, indices["train"], data_seed)
        return Splits(
            train=Split(pool.images, indices["train"]),
            val=Split(pool.images, indices["val"]),
            test=Split(pool.images, indices["test"]),
            classes=pool.classes,
            fingerprint=fingerprint(pool.keys, [look.digest for look in pool.looks], pool.digests),
            notes=tuple(cut_notes),
            warnings=(
                *collection.warnings,
                *pool.warnings,
                *division.remarks(pool, indices),
                *_repeated(indices, pool),
            ),
            left_out=dict(sorted(collection.left_out.items())),
            contents=tuple(pool.contents),
            target=collection.target,
        )

    def pool(self, cache_dir: Path | None = None) -> Pool:
        """The usable images with their targets, before parts are cut and subsets drawn; raises UsageError as `load`."""
        return self._pool(self.collect(), self.division(), cache_dir)

    def _pool(self, collection: Collection, division: Division, cache_dir: Path | None) -> Pool:
        images = collection.images
        found = division.candidates(collection)
        inspections = dict(zip(found.indices, images.inspect(found.indices, cache_dir), strict=True))
        looks = dict(
            zip(found.indices, division.looks(collection, found, [*inspections.values()], cache_dir), strict=True)
        )
        bad = {index: problem for index in found.indices if (problem := inspections[index].problem)}
        bad_targets = {index: why for index in found.indices if index not in bad and (why := looks[index].unreadable)}
        if self.on_unreadable == "skip":
            problems = []
        else:
            problems = [Problem("dataset", f"unreadable image {images.locate(i)}: {why}") for i, why in bad.items()]
            problems += _unreadable_targets(collection, bad_targets)
            problems = [*_remedied(problems)]
        good = [index for index in found.indices if index not in bad and index not in bad_targets]
        problems += _mistakes(collection, {index: looks[index] for index in good})
        if problems:
            raise UsageError(problems)
        out = {index: f"{images.key(index)}: {why}" for index, why in (bad | bad_targets).items()}
        left_out = listed([out[index] for index in found.indices if index in out])
        return Pool(
            images=Subset(
                images,
                np.array(good, dtype=np.int64),
                division.targets(collection, good, [looks[index] for index in good]),
            ),
            keys=[images.key(index) for index in good],
            digests=[inspections[index].digest for index in good],
            contents=[inspections[index].pixels for index in good],
            looks=[looks[index] for index in good],
            parts=[collection.parts[index] for index in good],
            classes=tuple(collection.classes[label] for label in found.kept),
            warnings=[
                *found.warnings,
                *([f"{counted(len(out), 'unreadable image')} left out: {left_out}"] if out else []),
                *_remarks({images.key(index): inspections[index].remarks + looks[index].remarks for index in good}),
            ],
        )

    def _cut_missing(
        self, pool: Pool, division: Division, indices: dict[Part, NDArray[np.int64]], data_seed: int
    ) -> list[str]:
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
            indices["train"], indices[part] = division.cut(pool, train, share, part, seed)
            alike = len(train) - len({pool.contents[index] for index in train})
            together = f"; {alike} are copies of others, and copies stay in one part" if alike else ""
            notes.append(f"the set has no {part} part: {len(indices[part])} images cut from train, {how}{together}")
        return notes


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
        if self.n_per_class is not None and self.fraction is not None:
            raise ValueError("n_per_class and fraction both choose a subset: give one of them")
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
        if self.n_images is not None and self.fraction is not None:
            raise ValueError("n_images and fraction both choose a subset: give one of them")
        return self

    def division(self) -> Division:
        """By image: parts and subsets show each class about as often as the whole."""
        return ByPresence(self.n_images, self.fraction)


def _remedied(problems: list[Problem]) -> list[Problem]:
    if not problems:
        return []
    more = f"{len(problems) - MOST_NAMED} more; " if len(problems) > MOST_NAMED else ""
    remedy = Problem("dataset.on_unreadable", f"{more}set it to skip to leave such images out")
    return [*problems[:MOST_NAMED], remedy]


def _unreadable_targets(collection: Collection, bad: Mapping[int, str]) -> list[Problem]:
    said = collection.annotations
    if said is None:
        return []
    return [Problem("dataset", f"unreadable annotation {said.locate(index)}: {why}") for index, why in bad.items()]


def _mistakes(collection: Collection, looks: Mapping[int, Look]) -> list[Problem]:
    """What is wrong with what the set says of its images."""
    said = collection.annotations
    if said is None:
        return []
    return shortened(
        [
            Problem("dataset", f"{said.locate(index)}: {mistake}")
            for index, look in looks.items()
            for mistake in look.mistakes
        ]
    )


def _repeated(indices: dict[Part, NDArray[np.int64]], pool: Pool) -> list[str]:
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
                f"so {later} scores are too optimistic: {listed(same_pixels, 3)}"
            )
    return warnings


def _remarks(remarks: Mapping[str, Sequence[str]]) -> list[str]:
    """A warning for each kind of thing that images have and that is not used."""
    by_kind: dict[str, list[str]] = {}
    for key, kinds in remarks.items():
        for kind in kinds:
            by_kind.setdefault(kind, []).append(key)
    return [f"{counted(len(keys), 'image')} with {kind} ({listed(keys, 3)})" for kind, keys in sorted(by_kind.items())]


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"
