"""What may be tuned: the kind and bounds of each field, and a value for each draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from thawline.dotted import leaves
from thawline.errors import Problem, UsageError

Kind = Literal["log", "linear", "int", "choice"]
_KINDS = ("log", "linear", "int", "choice", "factor")
_GROUPS = "groups"


@dataclass(frozen=True)
class Dimension:
    """One field that is tuned: `values` are the lowest and the highest value, or the choices.

    ``log`` and ``linear`` are numbers, uniform on that scale; ``int`` are whole numbers, both ends among them.
    """

    kind: Kind
    values: tuple[Any, ...]

    def at(self, draw: float) -> str:
        """The value at a draw from [0, 1), as an override has it: numbers to three significant digits."""
        if self.kind == "choice":
            return self.text(self.values[int(draw * len(self.values))])
        low, high = self.values
        if self.kind == "int":
            return self.text(low + int(draw * (high - low + 1)))
        if self.kind == "log":
            return self.text(math.exp(math.log(low) + draw * (math.log(high) - math.log(low))))
        return self.text(low + draw * (high - low))

    def text(self, value: Any) -> str:
        """A value as an override has it."""
        if self.kind in ("log", "linear"):
            low, high = self.values
            return f"{min(max(float(f'{value:.3g}'), low), high):g}"
        return str(value).lower() if isinstance(value, bool) else str(value)

    def value(self, text: str) -> Any:
        """The value that `text` stands for."""
        if self.kind == "choice":
            return next(value for value in self.values if self.text(value) == text)
        return int(text) if self.kind == "int" else float(text)

    @property
    def plain(self) -> list[Any]:
        """Kind and values as the configuration writes them."""
        return [self.kind, *self.values]


def dimension(field: str, entry: Any, configured: Any, groups: int) -> Dimension:
    """The dimension that an entry of ``protocol.space`` describes.

    Args:
        field: its name, for messages.
        entry: kind and values.
        configured: the value that the field has in the configuration.
        groups: the number of layer groups, which ``groups`` stands for.

    Raises:
        UsageError: the entry describes none.
    """
    try:
        return _dimension(entry, configured, groups)
    except ValueError as error:
        raise UsageError(Problem(f"protocol.space.{field}", f"{error} (got {entry!r:.80})")) from None


def tuned_fields(space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a space with their entries; those that are null are left out."""
    return ((field, entry) for field, entry in leaves(space) if entry is not None and entry != {})


def _dimension(entry: Any, configured: Any, groups: int) -> Dimension:
    if not isinstance(entry, Sequence) or isinstance(entry, str) or not entry or entry[0] not in _KINDS:
        raise ValueError(f"a list is needed that begins with {', '.join(_KINDS[:-1])} or {_KINDS[-1]}")
    kind, values = entry[0], entry[1:]
    if kind == "choice":
        if not values or any(not isinstance(value, (str, int, float, bool)) for value in values):
            raise ValueError("choice needs at least one value, each a number, a truth value or text")
        return Dimension("choice", tuple(values))
    bounds = [groups if value == _GROUPS and kind == "int" else value for value in values]
    if len(bounds) != 2 or not all(_is_number(value) for value in bounds) or not bounds[0] < bounds[1]:
        raise ValueError(f"{kind} needs two numbers, the lowest and the highest")
    low, high = bounds
    if kind == "int":
        if any(value != int(value) for value in bounds):
            raise ValueError("int needs whole numbers")
        return Dimension("int", (int(low), int(high)))
    if kind in ("log", "factor") and low <= 0:
        raise ValueError(f"{kind} needs numbers above 0")
    if kind == "factor":
        if not _is_number(configured) or configured <= 0:
            raise ValueError(f"a factor needs a field with a number above 0, and this one has {configured!r}")
        return Dimension("log", (_short(configured * low), _short(configured * high)))
    return Dimension(kind, (float(low), float(high)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float) -> float:
    return float(f"{value:.3g}")
