"""Many short values in a few large arrays, read as sequences.

A million paths as a list of texts take some 100 MB, and every process that is forked copies them as it counts its
references to them. In one array they take 30 MB, and forked processes share them.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Item = TypeVar("_Item")
_AT_ONCE = 4096


class Column(Sequence[_Item]):
    """A sequence of items that are made when they are asked for."""

    @abstractmethod
    def at(self, place: int) -> _Item:
        """The item at a place, which is not negative."""

    @overload
    def __getitem__(self, index: int) -> _Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_Item]: ...
    def __getitem__(self, index: int | slice) -> _Item | Sequence[_Item]:
        """The item at an index, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self.at(place) for place in range(len(self))[index]]
        return self.at(index if index >= 0 else range(len(self))[index])


class ArrayColumn(Column[_Item]):
    """A column of which some can be taken without making the items."""

    @abstractmethod
    def taken(self, places: NDArray[np.int64]) -> ArrayColumn[_Item]:
        """The column of the items at these places."""


class Packed(Column[bytes]):
    """n byte strings end to end.

    Attributes:
        content: All of them.
        ends: (n,) where each ends in `content`.
    """

    def __init__(self, content: bytes, ends: NDArray[np.int64]) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, items: Iterable[bytes]) -> Packed:
        """These byte strings."""
        content, ends = bytearray(), array("q")
        for item in items:
            content += item
            ends.append(len(content))
        return cls(bytes(content), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, place: int) -> bytes:
        """The bytes at a place."""
        return self.content[self.ends.item(place - 1) if place else 0 : self.ends.item(place)]

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for first in range(0, len(self), _AT_ONCE):
            for end in self.ends[first : first + _AT_ONCE].tolist():
                yield self.content[start:end]
                start = end


class Texts(Column[str]):
    """n texts; those that are no valid Unicode, as names of files may be, come back as they were."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.packed = Packed.of(map(encoded, texts))

    def __len__(self) -> int:
        return len(self.packed)

    def at(self, place: int) -> str:
        """The text at a place."""
        return _text(self.packed.at(place))

    def __iter__(self) -> Iterator[str]:
        return map(_text, self.packed)


class Digests(ArrayColumn[str]):
    """n digests of one length, read as hexadecimal digits: `rows` (n, bytes) uint8."""

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, place: int) -> str:
        """The digest at a place."""
        content: bytes = self.rows[place].tobytes()
        return content.hex()

    def taken(self, places: NDArray[np.int64]) -> Digests:
        """The digests at these places."""
        return Digests(self.rows[places])

    def __iter__(self) -> Iterator[str]:
        digits = 2 * self.rows.shape[1]
        for first in range(0, len(self), _AT_ONCE):
            text = self.rows[first : first + _AT_ONCE].tobytes().hex()
            yield from (text[start : start + digits] for start in range(0, len(text), digits))


def encoded(text: str) -> bytes:
    """A text as `Texts` keep it."""
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def chosen(values: Sequence[_Item], places: NDArray[np.int64]) -> Sequence[_Item]:
    """The values at these places."""
    return values.taken(places) if isinstance(values, ArrayColumn) else [values[place] for place in places.tolist()]


def numbered(values: Sequence[str]) -> NDArray[np.int64]:
    """(n,) a number for each value, the same for those that are equal."""
    if isinstance(values, Digests) and len(values):
        whole = np.ascontiguousarray(values.rows).view(f"S{values.rows.shape[1]}")[:, 0]
        return np.unique(whole, return_inverse=True)[1].astype(np.int64)
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
