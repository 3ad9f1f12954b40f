"""Data sets of Hugging Face's library datasets that lie on this disk."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from thawline.datasets import image_files
from thawline.datasets.base import Folder, ImageDataset
from thawline.datasets.folders import PART_NAMES, check_folder, in_order, normal
from thawline.datasets.inspections import Seen, inspected
from thawline.datasets.looks import STAMP_BYTES, OpenFile
from thawline.datasets.pools import listed, shortened
from thawline.datasets.splits import Collection, Inspection, Part
from thawline.errors import Problem, UsageError, nearest, usage_error

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"


class HuggingFaceDataset(ImageDataset):
    """A data set of Hugging Face's library datasets, in a folder: what ``save_to_disk`` wrote, or Parquet files.

    Splits are called train, validation and test; a Parquet file belongs to the one that its name begins with
    (``data/train-00000-of-00002.parquet``). What is missing of validation and test is cut from train. Nothing is
    fetched: load the set once with the library and save it.

    Attributes:
        root: The folder.
        image: The column of the images: a feature ``Image``, or the bytes of image files.
        label: The column of the classes: a feature ``ClassLabel``, or texts or whole numbers.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    image: str = "image"
    label: str = "label"

    def check(self) -> None:
        """Whether the library and the folder are there."""
        check_folder(self.root)
        if importlib.util.find_spec("datasets") is None:
            raise usage_error("dataset", "needs the library datasets: pip install 'thawline[huggingface]'")

    def collect(self) -> Collection:
        """The images of all splits."""
        left_out = Counter[str]()
        splits = _parts(self.root, _loaded(self.root), left_out)
        tables = tuple(_Table.of(split, self.image) for split in splits.values())
        names = [_labels(part, split, self.label) for part, split in splits.items()]
        labels = [label for part in names for label in part]
        declared = _declared(splits, self.label)
        there = set(labels)
        classes = tuple(name for name in declared if name in there) if declared else in_order(there)
        number = {name: index for index, name in enumerate(classes)}
        counts = [len(part) for part in names]
        images = TableImages(
            self.root,
            tuple(splits),
            tables,
            np.repeat(np.arange(len(counts)), counts),
            np.concatenate([np.arange(count) for count in counts]),
            np.array([number[label] for label in labels], dtype=np.int64),
        )
        parts = tuple(part for part, count in zip(splits, counts, strict=True) for _ in range(count))
        return Collection(images, classes, parts, left_out=dict(left_out))


@dataclass(frozen=True)
class _Table:
    """The image column of a split.

    Attributes:
        rows: A ``datasets.Dataset`` with that column alone, not decoded.
        column: Its name.
    """

    rows: Any
    column: str

    @classmethod
    def of(cls, split: Any, column: str) -> _Table:
        """The column of a split; raises UsageError where there is none, or one of something else."""
        from datasets import Image, Value

        _check_column(split, column, "image")
        kind = split.features[column]
        rows = split.select_columns([column]).with_format(None)
        if isinstance(kind, Image):
            return cls(rows.cast_column(column, Image(decode=False)), column)
        if isinstance(kind, Value) and kind.dtype in ("binary", "large_binary"):
            return cls(rows, column)
        raise usage_error("dataset.image", f"the column {column!r} holds {_kind(kind)}, not images")

    def content(self, row: int) -> bytes:
        """The bytes of an image file; raises ValueError where there are none."""
        value, path = self.rows[row][self.column], None
        if isinstance(value, dict):
            value, path = value["bytes"], value["path"]
        if value is None:
            why = f"the table names the file {path} and does not hold it" if path else "the table holds nothing here"
            raise ValueError(f"{why}: save the set with save_to_disk")
        return bytes(value)

    @cached_property
    def stamp(self) -> bytes:
        """Of the files that hold the rows, and of what is in memory never the same again; raises OSError."""
        paths = [Path(file["filename"]) for file in self.rows.cache_files]
        return hashlib.blake2b((self.column.encode() if paths else os.urandom(16)) + _stamp(paths)).digest()


@dataclass(frozen=True)
class TableImages:
    """Images in tables, one for each split.

    Attributes:
        root: The folder of the set.
        names: Of the splits.
        tables: Of the splits.
        table: (N,) the table of each image.
        rows: (N,) its row there.
        targets: (N,) int64 classes.
        seen: What `inspect` found; `read` gives no other image.
    """

    root: Path
    names: Sequence[str]
    tables: Sequence[_Table]
    table: NDArray[np.int64]
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    seen: Seen = field(default_factory=Seen, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Image:
        """The image, in RGB and upright.

        Raises:
            UsageError: it cannot be read, or is not the one that was inspected; names the split and the row.
        """
        try:
            # Hashed each time: a table may be hundreds of files, and their stamps take longer.
            return image_files.decode(self.seen.held(index, self._cell(index).read(), b"", self.locate(index)))
        except (OSError, ValueError, image_files.UnreadableImageError) as error:
            raise usage_error("dataset", f"{self.locate(index)}: not a usable image: {error}") from None

    def key(self, index: int) -> str:
        """The image's split and row."""
        return f"{self.names[int(self.table[index])]}/{int(self.rows[index]):08d}"

    def locate(self, index: int) -> str:
        """The folder, the split and the row."""
        return f"{self.root}, {self.names[int(self.table[index])]} row {int(self.rows[index])}"

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> Sequence[Inspection]:
        """Hash and decode every image; not again while the files of its split have the stamps of an earlier look."""
        keys = [self.key(index) for index in indices]
        found = inspected(self.root, keys, lambda place: self._cell(indices[place]), cache_dir)
        return self.seen.note(indices, found)

    def _cell(self, index: int) -> _Cell:
        return _Cell(self.tables[int(self.table[index])], int(self.rows[index]))


class _Cell:
    """The image of a row (`thawline.datasets.looks.Content`)."""

    def __init__(self, table: _Table, row: int) -> None:
        self._table, self._row = table, row

    @property
    def stamp(self) -> bytes:
        """Of the table's files and the row; raises OSError."""
        digest = hashlib.blake2b(self._table.stamp + str(self._row).encode(), digest_size=STAMP_BYTES)
        return digest.digest()

    def read(self) -> bytes:
        """The bytes; raises ValueError where there are none."""
        return self._table.content(self._row)

    def close(self) -> None:
        """Nothing is open."""


def _stamp(paths: Sequence[Path]) -> bytes:
    """The stamps of files as one; raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        file = OpenFile(path)
        file.close()
        digest.update(file.stamp)
    return digest.digest()


def _loaded(root: Path) -> Mapping[str, Any]:
    """The splits by the names that they have in the folder; raises UsageError."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if (root / _SAVED_SPLITS).is_file():
            found: Mapping[str, Any] = datasets.load_from_disk(str(root), keep_in_memory=False)
            return found
        if (root / _SAVED).is_file():
            return {"train": datasets.load_from_disk(str(root), keep_in_memory=False)}
        files = _parquet_files(root)
        # The library takes a file for the one that it has read before by its path and its time alone.
        stamp = _stamp([Path(path) for part in files.values() for path in part]).hex()
        loaded: Mapping[str, Any] = datasets.load_dataset("parquet", stamp, data_files=files, keep_in_memory=False)
        return loaded
    except (OSError, ValueError, LookupError, TypeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise usage_error("dataset.root", f"{root}: not a whole data set of the library datasets: {reason}") from None


def _parquet_files(root: Path) -> dict[str, list[str]]:
    """The files by the first word of their names, where that is a split; else all are of train."""
    files = sorted(path for path in root.rglob("*.parquet") if not path.name.startswith("."))
    if not files:
        what = f"neither what save_to_disk wrote ({_SAVED_SPLITS}, {_SAVED}) nor Parquet files"
        raise usage_error("dataset.root", f"{root}: {what}; there: {listed(sorted(map(_name, root.iterdir())), 5)}")
    words = [re.split(r"[^a-z]+", path.name.lower())[0] for path in files]
    if not any(word in PART_NAMES for word in words):
        return {"train": [str(path) for path in files]}
    found: dict[str, list[str]] = {}
    for word, path in zip(words, files, strict=True):
        found.setdefault(word, []).append(str(path))
    return found


def _name(path: Path) -> str:
    return f"{path.name}/" if path.is_dir() else path.name


def _parts(root: Path, found: Mapping[str, Any], left_out: Counter[str]) -> dict[Part, Any]:
    """The splits that are train, val and test; others are left out and counted."""
    parts: dict[Part, Any] = {}
    for name, split in found.items():
        part = PART_NAMES.get(str(name).lower())
        if part in parts:
            raise usage_error("dataset.root", f"{root}: two splits could be the {part} part ({', '.join(found)})")
        if part is None:
            left_out[f"split {name}"] += len(split)
        else:
            parts[part] = split
    if "train" not in parts:
        raise usage_error("dataset.root", f"{root}: there is no split train; it has {', '.join(found)}")
    return parts


def _check_column(split: Any, column: str, field: str) -> None:
    names = list(split.features)
    if column not in names:
        message = f"no column {column!r}{nearest(column, names)}; the set has {', '.join(names)}"
        raise usage_error(f"dataset.{field}", message)


def _labels(part: Part, split: Any, column: str) -> list[str]:
    """The class of each row of a split; raises UsageError."""
    from datasets import ClassLabel, Value

    _check_column(split, column, "label")
    kind = split.features[column]
    values = split.select_columns([column]).with_format(None)[:][column]
    if isinstance(kind, ClassLabel):
        values = [None if value is None or value < 0 else kind.names[value] for value in values]
    elif not isinstance(kind, Value) or not re.fullmatch(r"(large_)?string|u?int\d+|bool", kind.dtype):
        raise usage_error("dataset.label", f"the column {column!r} holds {_kind(kind)}, not classes")
    labels = [None if value is None else normal(str(value)) for value in values]
    wrong = [f"{part} row {row} has no label" for row, label in enumerate(labels) if not label]
    if wrong:
        raise UsageError(shortened([Problem("dataset.label", message) for message in wrong]))
    return [label for label in labels if label]


def _declared(splits: Mapping[Part, Any], column: str) -> tuple[str, ...]:
    """The classes in the order that the set gives them; nothing where it gives none."""
    names = [normal(name) for split in splits.values() for name in getattr(split.features[column], "names", ())]
    return tuple(dict.fromkeys(names))


def _kind(feature: Any) -> str:
    """A feature in words, such as ``string`` or ``ClassLabel``."""
    from datasets import Value

    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__
