"""Images with values in a table: which of several classes each shows, or a number."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator

from thawline.datasets.base import AnnotatedDataset, Folder, names_alone
from thawline.datasets.folders import PART_NAMES, check_folder, on_disk
from thawline.datasets.image_files import EXTENSIONS
from thawline.datasets.images import FileImages
from thawline.datasets.pairs import walked
from thawline.datasets.pools import first_few, shortened
from thawline.datasets.splits import Collection, Part
from thawline.datasets.table import listed_once, read_table
from thawline.datasets.targets import Look, Size, as_objects
from thawline.errors import Problem, UsageError, nearest, usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """A row of values for each image (`thawline.datasets.targets.Annotations`).

    Attributes:
        kind: What the targets are.
        values: (N, ...) the targets.
        table: Where they are from.
    """

    kind: Literal["classes", "number"]
    values: NDArray[np.generic]
    table: Path

    def locate(self, index: int) -> str:
        """The table."""
        return str(self.table)

    def inspect(self, indices: Sequence[int], sizes: Sequence[Size], cache_dir: Path | None) -> list[Look]:
        """The digest of each row, and the classes that it names."""
        return [self._look(self.values[index]) for index in indices]

    def targets(self, indices: Sequence[int], looks: Sequence[Look]) -> NDArray[Any]:
        """(n, ...) the rows."""
        return self.values[np.array(indices, dtype=np.int64)]

    def _look(self, row: NDArray[np.generic]) -> Look:
        present = np.flatnonzero(row).tolist() if self.kind == "classes" else []
        little = np.ascontiguousarray(row, dtype=row.dtype.newbyteorder("<"))
        return Look(hashlib.sha256(little.tobytes()).hexdigest(), frozenset(present))


class _Row(NamedTuple):
    path: str
    part: Part
    line: int
    values: Mapping[str, str]


class ValueTable(AnnotatedDataset):
    """Base of the data sets whose targets are columns of a table.

    The table has a column path (below the root), and may have one called split (train, val, test); without it val and
    test are cut.

    Attributes:
        root: The folder that the paths are relative to.
        table: The table, below the root.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    table: str = "labels.csv"

    @abstractmethod
    def annotated(self, rows: Sequence[Mapping[str, str]], table: Path) -> tuple[tuple[str, ...], Any, list[str]]:
        """The classes, a row of values (N, ...) for each row, and for each row what is wrong with it, or nothing."""

    @property
    @abstractmethod
    def target(self) -> Literal["classes", "number"]:
        """What the values are."""

    def check(self) -> None:
        """Whether the folder and the table are there."""
        check_folder(self.root)
        if not (self.root / self.table).is_file():
            raise usage_error("dataset.table", f"{self.root / self.table}: no such file")

    def collect(self) -> Collection:
        """The images that the table lists, with their values."""
        table = self.root / self.table
        read = read_table(table, ("path",), others=True, field="dataset.table")
        given = ((line, row if isinstance(row, str) else self._row(line, row)) for line, row in read)
        rows = listed_once(table, given, lambda row: row.path, "dataset.table")
        listed = list(rows.values())
        classes, values, wrong = self.annotated([row.values for row in listed], table)
        said_of = [(row.line, said) for row, said in zip(listed, wrong, strict=True) if said]
        if said_of:
            raise UsageError(
                shortened([Problem("dataset.table", f"{table}, line {line}: {said}") for line, said in said_of])
            )
        return Collection(
            FileImages(self.root, list(rows), as_objects([None] * len(rows))),
            classes,
            tuple(row.part for row in listed),
            left_out=_unlisted(self.root, rows.keys()),
            annotations=Rows(self.target, values, table),
        )

    def _row(self, line: int, read: Mapping[str, str]) -> _Row | str:
        path = on_disk(self.root, read["path"])
        if not read["path"].strip() or path is None:
            return f"no such file: {read['path']!r}"
        split = next((name for name in read if name.lower() == "split"), None)
        values = {name: value.strip() for name, value in read.items() if name not in ("path", split)}
        if split is None:
            return _Row(path, "train", line, values)
        part = PART_NAMES.get(read[split].strip().lower())
        if part is None:
            return f"unknown split {read[split]!r}: it must be train, val or test"
        return _Row(path, part, line, values)


def _numbers_as_names(value: Any) -> Any:
    """A column may be called 7; that there is none of the name is said with those that there are."""
    return [str(item) if type(item) is int else item for item in value] if isinstance(value, list) else value


class MultiHotCsv(ValueTable):
    """Images of which each shows any number of classes: a table with a column of zeros and ones for each class.

    ``root/labels.csv`` has a column path (below the root), one for each class, and may have one called split (train,
    val, test); without it val and test are cut. An image may show no class.

    Attributes:
        root: The folder that the paths are relative to.
        table: The table, below the root.
        classes: The columns that are classes; null: all but path and split.
    """

    classes: Annotated[list[str] | None, BeforeValidator(names_alone), BeforeValidator(_numbers_as_names)] = None

    @property
    def target(self) -> Literal["classes"]:
        """Which classes an image shows."""
        return "classes"

    def annotated(self, rows: Sequence[Mapping[str, str]], table: Path) -> tuple[tuple[str, ...], Any, list[str]]:
        """(N, C) zeros and ones."""
        classes = _columns(self.classes or list(rows[0]), rows[0], "dataset.classes", table)
        wrong = [
            next((f"{name} is {row[name]!r}, not 0 or 1" for name in classes if not _is_bit(row[name])), "")
            for row in rows
        ]
        values = np.array(
            [[_is_bit(row[name]) and float(row[name]) for name in classes] for row in rows], dtype=np.uint8
        )
        return classes, values, wrong


class NumberCsv(ValueTable):
    """Images with a number each: a table with a column of numbers.

    ``root/labels.csv`` has a column path (below the root), one of numbers, and may have one called split (train, val,
    test); without it val and test are cut, whatever the numbers are.

    Attributes:
        root: The folder that the paths are relative to.
        table: The table, below the root.
        column: The column of numbers; null: the only one beside path and split.
    """

    column: str | None = None

    @property
    def target(self) -> Literal["number"]:
        """A number."""
        return "number"

    def annotated(self, rows: Sequence[Mapping[str, str]], table: Path) -> tuple[tuple[str, ...], Any, list[str]]:
        """(N, 1) numbers in single precision; there are no classes."""
        names = [self.column] if self.column is not None else list(rows[0])
        if len(names) != 1:
            there = ", ".join(map(repr, names)) or "none"
            raise usage_error("dataset.column", f"{table}: name the column of numbers; there are {there}")
        (name,) = _columns(names, rows[0], "dataset.column", table)
        numbers = [_number(row[name]) for row in rows]
        wrong = [
            f"{name} is {row[name]!r}, not a number" if math.isnan(number) else ""
            for row, number in zip(rows, numbers, strict=True)
        ]
        return (), np.array(numbers, dtype=np.float32).reshape(-1, 1), wrong


def _columns(names: Sequence[str], row: Mapping[str, str], field: str, table: Path) -> tuple[str, ...]:
    unknown = [name for name in names if name not in row]
    if unknown:
        near = nearest(unknown[0], row) if len(unknown) == 1 else ""
        what = f"column{'' if len(unknown) == 1 else 's'} {first_few([repr(name) for name in unknown])}"
        raise usage_error(field, f"{table}: it has no {what}{near or f'; there are {first_few(list(row))}'}")
    if not names or len({*names}) < len(names):
        raise usage_error(field, f"{table}: name each column once")
    return tuple(names)


def _is_bit(text: str) -> bool:
    return _number(text) in (0.0, 1.0)


def _number(text: str) -> float:
    """The number, or not a number where it is none that single precision holds."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if abs(number) <= float(np.finfo(np.float32).max) else math.nan


def _unlisted(root: Path, listed: Any) -> dict[str, int]:
    count: Counter[str] = Counter()
    for folder in sorted({Path(path).parent.as_posix() for path in listed}):
        for path in walked(root, folder, count):
            if (
                Path(path).parent.as_posix() == folder
                and Path(path).suffix.lower() in EXTENSIONS
                and path not in listed
            ):
                count["images that the table does not list"] += 1
    return dict(count)
