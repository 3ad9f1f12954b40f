"""What every data set comes down to: images with labels and keys, and which of them are train, val and test."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from thawline.datasets.targets import Annotations, Size

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

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> Sequence[Inspection]:
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

    @property
    def keys(self) -> tuple[str, ...]:
        """The name of each sample, in order."""
        return tuple(self._keys())

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the keys in order: two splits with the same digest hold the same samples."""
        return _sha256_of_lines(map(encode_basestring_ascii, self._keys()))

    def _keys(self) -> Iterator[str]:
        return map(self.images.key, self.indices.tolist())


@dataclass(frozen=True)
class Splits:
    """A loaded data set. The three splits share one `Images` and have no sample in common.

    Attributes:
        train: The labelled training samples, after the choice of a subset.
        val: The samples that select epoch, depth and learning rate; None: they are trained on, too.
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
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    contents: Sequence[str] = ()
    target: str = "class"
    closed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def opened(self) -> dict[str, Split]:
        """The splits that may be read, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    def without_test(self) -> Splits:
        """The same set with its test split closed."""
        return self if self.test is None else dataclasses.replace(self, test=None, closed=self.test.indices)

    def with_val_in_train(self) -> Splits:
        """The same set with one training split of all its training and validation samples."""
        if self.val is None:
            return self
        together = Split(self.images, np.union1d(self.train.indices, self.val.indices))
        note = f"the {len(self.train)} images of train and the {len(self.val)} of val are trained on together"
        return dataclasses.replace(self, train=together, val=None, notes=(*self.notes, note))

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


def fingerprint(keys: Sequence[str], class_names: Iterable[str], digests: Iterable[str]) -> str:
    """The SHA-256 of the sorted (key, class name, content digest) of all images."""
    lines = [
        f"[{encode_basestring_ascii(key)}, {encode_basestring_ascii(name)}, {encode_basestring_ascii(digest)}]"
        for key, name, digest in zip(keys, class_names, digests, strict=True)
    ]
    return _sha256_of_lines(sorted(lines))


def _sha256_of_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()
