"""What a reader is shown of one image: numbers for a table, plain data for a file, and a drawing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

if TYPE_CHECKING:
    from PIL.Image import Image

Row = Mapping[str, str | int | float]
_MOST_DRAWN = 3


class Shown(ABC):
    """What was predicted of one image, or what is true of it, in the image's own pixels.

    Attributes:
        HAS_SCORES: whether it is a list of objects, of which those with a low score may be left out.
        HAS_MASK: whether `mask` gives one.
    """

    HAS_SCORES: ClassVar[bool] = False
    HAS_MASK: ClassVar[bool] = False

    @abstractmethod
    def summary(self) -> Mapping[str, str]:
        """The columns of a table on the terminal."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """The same for a JSON file, complete: texts, numbers, lists and mappings."""

    @abstractmethod
    def rows(self) -> Sequence[Row]:
        """The same for a CSV file: a row for the image, or one for each of its objects; all with the same columns."""

    def columns(self) -> Sequence[str]:
        """The columns of `rows`."""
        return list(self.rows()[0])

    @abstractmethod
    def drawn(self, image: Image, side: int) -> Image:
        """The image, RGB, with all of it drawn on, its longer side at `side` pixels; with a legend where needed."""

    def mask(self) -> Image | None:
        """A mask of the image's own size, for a PNG file; None: there is none."""
        return None


@final
@dataclass(frozen=True)
class Numbers(Shown):
    """A number for each output, by its name."""

    values: Mapping[str, float]

    def summary(self) -> Mapping[str, str]:
        """A column for each."""
        return {name: f"{value:.4g}" for name, value in self.values.items()}

    def facts(self) -> Mapping[str, Any]:
        """``values``, by name."""
        return {"values": dict(self.values)}

    def rows(self) -> Sequence[Row]:
        """One row, with a column for each."""
        return [dict(self.values)]

    def drawn(self, image: Image, side: int) -> Image:
        """The image with the numbers below it."""
        from thawline.tasks.drawing import with_lines

        return with_lines(image, [f"{name}: {value:.4g}" for name, value in self.values.items()], side)


@final
@dataclass(frozen=True)
class Probabilities(Shown):
    """The probability of each class: of the one that the image has, or each by itself.

    Attributes:
        values: by the name of the class.
        one: whether an image has one class; otherwise it has those with a probability of at least one half.
    """

    values: Mapping[str, float]
    one: bool = True

    @property
    def classes(self) -> list[str]:
        """The classes that the image is said to have, the most probable first."""
        ranked = self._ranked()
        return [name for name, value in (ranked[:1] if self.one else ranked) if self.one or value >= 0.5]

    def summary(self) -> Mapping[str, str]:
        """The class with its probability, and the next; or all classes with theirs."""
        if not self.one:
            return {"classes": ", ".join(f"{name} {self.values[name]:.3f}" for name in self.classes) or "none"}
        (name, value), *others = self._ranked()
        following = f"{others[0][0]} {others[0][1]:.3f}" if others else ""
        return {"class": name, "probability": f"{value:.3f}", "next": following}

    def facts(self) -> Mapping[str, Any]:
        """``class`` (or ``classes``), and ``probabilities`` by name."""
        said: dict[str, Any] = {"class": self.classes[0]} if self.one else {"classes": self.classes}
        return {**said, "probabilities": dict(self.values)}

    def rows(self) -> Sequence[Row]:
        """One row: what the image is said to have, and the probability of each class in a column of its own."""
        said = {"class": self.classes[0]} if self.one else {"classes": " ".join(self.classes)}
        return [{**said, **{f"probability.{name}": value for name, value in self.values.items()}}]

    def drawn(self, image: Image, side: int) -> Image:
        """The image with its most probable classes below it."""
        from thawline.tasks.drawing import with_lines

        return with_lines(image, [f"{value:.3f}  {name}" for name, value in self._ranked()[:_MOST_DRAWN]], side)

    def _ranked(self) -> list[tuple[str, float]]:
        return sorted(self.values.items(), key=lambda item: -item[1])
