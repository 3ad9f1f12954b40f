"""The usable images of a data set before they are divided, and what decides how they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from thawline.datasets.columns import numbered
from thawline.datasets.splits import Collection, Inspection, Part, Subset
from thawline.datasets.targets import Look
from thawline.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_NAMED = 20
_FEW = 8


@dataclass(frozen=True)
class Pool:
    """The N usable images, in the order of their keys.

    Attributes:
        images: The images with their targets.
        keys: Their names.
        digests: Of their content.
        contents: Of their pixels.
        looks: At what the set says of them.
        parts: By the set's own division.
        classes: The class names.
        warnings: What a reader of the results has to know of them.
    """

    images: Subset
    keys: Sequence[str]
    digests: Sequence[str]
    contents: Sequence[str]
    looks: Sequence[Look]
    parts: Sequence[Part]
    classes: tuple[str, ...]
    warnings: Sequence[str]

    @cached_property
    def bytes_number(self) -> NDArray[np.int64]:
        """(N,) the same number for images of the same content."""
        return numbered(self.digests)

    @cached_property
    def pixels_number(self) -> NDArray[np.int64]:
        """(N,) the same number for images of the same pixels: copies."""
        return numbered(self.contents)


class Candidates(NamedTuple):
    """Which images of a collection are wanted.

    Attributes:
        indices: (n,) of the images.
        kept: The index in the collection of each class that is kept.
        warnings: What a reader of the results has to know of the choice.
    """

    indices: NDArray[np.int64]
    kept: list[int]
    warnings: list[str]


class Division(Protocol):
    """How the images of a set are chosen and divided, by what their targets are."""

    def candidates(self, collection: Collection) -> Candidates:
        """The images and classes that are wanted; raises UsageError."""
        ...

    def looks(
        self, collection: Collection, found: Candidates, inspections: Sequence[Inspection], cache_dir: Path | None
    ) -> Sequence[Look]:
        """A look at the target of each candidate; raises UsageError where targets are wrong."""
        ...

    def targets(self, collection: Collection, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[Any]:
        """The targets (n, ...) of those that are used."""
        ...

    def check(self, pool: Pool) -> None:
        """Raise UsageError where the set's own parts cannot be used."""
        ...

    def cut(
        self, pool: Pool, train: NDArray[np.int64], share: float, part: Part, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Divide `train` (n,) into a rest and a part of `share`; raises UsageError."""
        ...

    def subset(self, pool: Pool, train: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """The training images (n,) that are kept; raises UsageError."""
        ...

    def remarks(self, pool: Pool, indices: Mapping[Part, NDArray[np.int64]]) -> list[str]:
        """What a reader of the results has to know of the parts; raises UsageError where one cannot be used."""
        ...


def listed(lines: Sequence[str], most: int = MOST_NAMED) -> str:
    """The first of several things, and how many more there are."""
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def first_few(names: Sequence[str]) -> str:
    """The first of several names, for a message that says which there are."""
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def shortened(problems: Sequence[Problem]) -> list[Problem]:
    """The first of several problems, and how many more there are."""
    more = len(problems) - MOST_NAMED
    rest = [Problem(problems[MOST_NAMED].field, f"and {more} more of the kind")] if more > 0 else []
    return [*problems[:MOST_NAMED], *rest]
