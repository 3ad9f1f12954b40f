"""Further test sets: the test images corrupted, or another data set of the same classes.

Each shift says, before any training, which sets it makes; the record has their metrics under ``test/<name>``, beside
those of ``test``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BeforeValidator, Field, field_validator

from thawline.datasets import Dataset, Images, Split, Splits
from thawline.errors import Problem, UsageError, nearest, usage_error
from thawline.evaluation.corruptions import CORRUPTIONS, corrupt, set_name
from thawline.specs import Spec
from thawline.transforms import Transform

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

Load = Callable[[Dataset], Splits]
"""Loads a data set as the run loads its own: with its data seed, once in a process."""

_Strength = Annotated[int, Field(ge=1, le=5)]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


@dataclass(frozen=True)
class ShiftedSet:
    """A further test set.

    Attributes:
        name: its metrics are under ``test/<name>``.
        split: its images.
        targets: the target of every image of ``split.images``, (N, ...); a class counts through `outputs`.
        outputs: which of the model's outputs it is evaluated over, (C',); None: all.
        decode: image -> uint8 (3, H, W).
        pixels: what decides the pixels beside the images themselves (JSON-able).
        fingerprint: the SHA-256 of the data set's content.
        mean: the name of the mean that it counts in, if any.
        notes: what a reader of the record has to know.
        warnings: what a reader of the results has to know before believing them.
    """

    name: str
    split: Split
    targets: NDArray[Any]
    outputs: NDArray[np.int64] | None
    decode: Callable[[Image], Tensor]
    pixels: Mapping[str, Any]
    fingerprint: str
    mean: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@runtime_checkable
class Shift(Protocol):
    """What makes further test sets of a run."""

    def sets(self, splits: Splits, transform: Transform, load: Load) -> Sequence[ShiftedSet]:
        """The sets for a target data set and its fitted transform; raises UsageError where they cannot be made."""
        ...


class Corruptions(Spec):
    """The test images corrupted: a set for each corruption and strength, and the mean over all of them.

    Attributes:
        names: the corruptions, of `thawline.evaluation.corruptions.CORRUPTIONS`.
        strengths: 1 (weak) to 5 (strong), for each of them.
    """

    names: tuple[str, ...] = Field(("gaussian_noise", "defocus_blur", "contrast", "jpeg", "pixelate"), min_length=1)
    strengths: tuple[_Strength, ...] = Field((1, 2, 3, 4, 5), min_length=1)

    @field_validator("names")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CORRUPTIONS:
                hint = nearest(name, CORRUPTIONS) or f"; corruptions: {', '.join(CORRUPTIONS)}"
                raise ValueError(f"there is no corruption {name!r}{hint}")
        return names

    @field_validator("names", "strengths")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("each is given once")
        return values

    def sets(self, splits: Splits, transform: Transform, load: Load) -> Sequence[ShiftedSet]:
        """``name-strength`` for each; all count in the mean ``corruptions``."""
        test = splits.test
        if test is None:
            return ()
        return [
            ShiftedSet(
                name=set_name(name, strength),
                split=Split(CorruptedImages(test.images, transform.decode, name, strength), test.indices),
                targets=test.images.targets,
                outputs=None,
                decode=_as_it_is,
                pixels={**transform.fixed, "corruption": name, "strength": strength, "numpy": np.__version__},
                fingerprint=splits.fingerprint,
                mean="corruptions",
            )
            for name in self.names
            for strength in self.strengths
        ]


class OtherDataset(Spec):
    """A second data set as a test out of distribution, evaluated over the classes that both have.

    Attributes:
        dataset: the second set.
        name: what its metrics are called: ``test/<name>``.
        class_map: class of the second set -> class of the target; null maps equal names. Classes that it does not map
            are left out, and the model chooses among the mapped target classes only.
        part: its test images (``test``), or all of its images (``all``), where nothing ever trained on them.
    """

    TASKS: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    dataset: Dataset
    name: str = Field("other", pattern=_NAME)
    class_map: dict[Annotated[str, BeforeValidator(str)], Annotated[str, BeforeValidator(str)]] | None = None
    part: Literal["test", "all"] = "test"

    def sets(self, splits: Splits, transform: Transform, load: Load) -> Sequence[ShiftedSet]:
        """One set, under `name`."""
        if splits.test is None:
            return ()
        other = load(self.dataset)
        mapping = self._target_indices(other.classes, splits.classes)
        evaluated = np.unique([index for index in mapping if index >= 0])
        if len(evaluated) < 2:
            raise usage_error(
                "class_map", f"two target classes or more are needed to choose among; it maps to {len(evaluated)}"
            )
        labels = np.searchsorted(evaluated, mapping)[other.images.targets]
        mapped = np.asarray(mapping)[other.images.targets] >= 0
        parts = [split for name, split in other.opened.items() if self.part == "all" or name == "test"]
        indices = np.sort(np.concatenate([part.indices[mapped[part.indices]] for part in parts]))
        left_out = [name for name, index in zip(other.classes, mapping, strict=True) if index < 0]
        chosen = Split(other.images, indices)
        seen = other.copies(chosen, (splits, "train"), (splits, "val"))
        return [
            ShiftedSet(
                name=self.name,
                split=chosen,
                targets=labels.astype(np.int64),
                outputs=evaluated.astype(np.int64),
                decode=transform.decode,
                pixels=transform.fixed,
                fingerprint=other.fingerprint,
                notes=_notes(self.name, [splits.classes[index] for index in evaluated], splits.classes, left_out),
                warnings=(f"{seen} of {len(chosen)} images of test/{self.name} are also in train or val",)
                if seen
                else (),
            )
        ]

    def _target_indices(self, other: Sequence[str], target: Sequence[str]) -> list[int]:
        """The target class of each class of the second set, -1 where it has none."""
        if self.class_map is None:
            return [target.index(name) if name in target else -1 for name in other]
        problems = [
            *_unknown(self.class_map, other, "the second data set"),
            *_unknown(self.class_map.values(), target, "the target data set"),
        ]
        if problems:
            raise UsageError(problems)
        return [target.index(self.class_map[name]) if name in self.class_map else -1 for name in other]


@dataclass(frozen=True)
class CorruptedImages:
    """Images at the model's size, corrupted; targets and keys are those of `images`."""

    images: Images
    decode: Callable[[Image], Tensor]
    name: str
    strength: int

    @property
    def targets(self) -> NDArray[Any]:
        """The target of each image, (N, ...)."""
        return self.images.targets

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Image:
        """The corrupted image, in RGB, at its final size."""
        from PIL import Image

        pixels = corrupt(self.decode(self.images.read(index)), self.name, self.strength, index)
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())

    def key(self, index: int) -> str:
        """The image's name."""
        return self.images.key(index)


def shifted_sets(
    shifts: Mapping[str, Shift], splits: Splits, transform: Transform, load: Load
) -> tuple[ShiftedSet, ...]:
    """The further test sets of a run.

    Raises:
        UsageError: a set cannot be made, or two have the same name; every problem found.
    """
    problems: list[Problem] = []
    found: list[ShiftedSet] = []
    for field, shift in shifts.items():
        try:
            found.extend(shift.sets(splits, transform, load))
        except UsageError as error:
            problems.extend(Problem(_placed(problem.field, field), problem.message) for problem in error.problems)
    names = [item.name for item in found] + sorted({item.mean for item in found if item.mean})
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem("shift", f"two test sets are called {name!r}; name one of them otherwise"))
    if problems:
        raise UsageError(problems)
    return tuple(found)


def _placed(field: str, shift: str) -> str:
    return f"shift.{shift}.{field}" if field else f"shift.{shift}"


def _as_it_is(image: Image) -> Tensor:
    import torch

    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def _unknown(names: Iterable[str], known: Sequence[str], whose: str) -> list[Problem]:
    return [
        Problem("class_map", f"{whose} has no class {name!r}{nearest(name, known)}")
        for name in dict.fromkeys(names)
        if name not in known
    ]


def _notes(name: str, evaluated: Sequence[str], target: Sequence[str], left_out: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if len(evaluated) < len(target):
        notes.append(f"test/{name} is evaluated over {len(evaluated)} of {len(target)} classes: {_few(evaluated)}")
    if left_out:
        what = "1 class" if len(left_out) == 1 else f"{len(left_out)} classes"
        notes.append(f"test/{name} leaves out {what} of its data set: {_few(left_out)}")
    return tuple(notes)


def _few(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
