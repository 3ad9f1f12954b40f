"""A user's own pictures: folders, or a table of path, label and split."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np

from thawline.datasets.base import Folder, ImageDataset
from thawline.datasets.images import FileImages
from thawline.datasets.pictures import EXTENSIONS
from thawline.datasets.splits import Collection, Part
from thawline.errors import Problem, UsageError, usage_error

SPLITS_FILE = "splits.csv"
_COLUMNS = ("path", "label", "split")
_PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip", ".7z", ".rar")
_MOST_NAMED = 20


class _Entry(NamedTuple):
    path: str  # below the root, with forward slashes
    label: str
    part: Part


class ImageFolder(ImageDataset):
    """Pictures in a folder. The first of these layouts that is found counts.

    1. ``root/splits.csv`` in UTF-8 with the columns path, label, split; paths are relative to the root and stay in it.
    2. ``root/train/CLASS/...`` and the same under ``val`` (or valid, validation) and ``test``.
    3. ``root/CLASS/...``: val and test are cut.

    Within a class, folders are searched to any depth. Hidden files and files that are no pictures by their name are
    ignored; symbolic links are followed. Classes are in the order of their names, or of their numbers where all of
    them are numbers.

    Attributes:
        root: The folder.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder

    def check(self) -> None:
        """Whether the folder is there."""
        if self.root.is_dir():
            return
        if not self.root.exists():
            raise usage_error("dataset.root", f"{self.root}: no such folder")
        if self.root.suffix.lower() in _ARCHIVES:
            raise usage_error("dataset.root", f"{self.root} is an archive: unpack it and give the folder")
        raise usage_error("dataset.root", f"{self.root} is not a folder")

    def collect(self) -> Collection:
        """The pictures by the layout that the folder has."""
        if (self.root / SPLITS_FILE).is_file():
            entries = _from_table(self.root)
        elif folders := _split_folders(self.root):
            entries = [item for part, name in folders.items() for item in _class_folders(self.root, f"{name}/", part)]
        else:
            entries = _class_folders(self.root, "", "train")
        if not entries:
            raise usage_error("dataset.root", f"{self.root}: no pictures found ({', '.join(sorted(EXTENSIONS))})")
        classes = _in_order({entry.label for entry in entries})
        number = {name: index for index, name in enumerate(classes)}
        labels = np.array([number[entry.label] for entry in entries], dtype=np.int64)
        images = FileImages(self.root, [entry.path for entry in entries], labels)
        return Collection(images, classes, tuple(entry.part for entry in entries))


def _in_order(names: set[str]) -> tuple[str, ...]:
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _subfolders(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not _ignored(item.name))


def _ignored(name: str) -> bool:
    # macOS leaves the second kind in archives: shadows of the real files, under the same names.
    return name.startswith(".") or name == "__MACOSX"


def _split_folders(root: Path) -> dict[Part, str]:
    """The folder of each part, or nothing where the folders below the root are classes."""
    names = _subfolders(root)
    folders: dict[Part, str] = {}
    for name in names:
        part = _PART_NAMES.get(name.lower())
        if part is None:
            continue
        if part in folders:
            raise usage_error("dataset.root", f"{root}: both {folders[part]!r} and {name!r} could be the {part} part")
        folders[part] = name
    if "train" in folders and _subfolders(root / folders["train"]):
        return folders
    if folders and len(folders) == len(names):
        what = f"{folders['train']!r} holds no class folders" if "train" in folders else "there is no train folder"
        raise usage_error("dataset.root", f"{root}: {what}")
    return {}


def _class_folders(root: Path, below: str, part: Part) -> list[_Entry]:
    entries: list[_Entry] = []
    problems: list[Problem] = []
    for label in _subfolders(root / below):
        paths = sorted(_picture_paths(root, f"{below}{label}"))
        if not paths:
            problems.append(Problem("dataset.root", f"{root / below / label}: the folder of a class holds no pictures"))
        entries += [_Entry(path, label, part) for path in paths]
    if problems:
        raise UsageError(_shortened(problems))
    return entries


def _picture_paths(root: Path, folder: str) -> Iterator[str]:
    seen: set[str] = set()
    for place, folders, files in os.walk(root / folder, followlinks=True):
        # A link to a folder above would be walked forever.
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _ignored(name))
        for name in files:
            if not _ignored(name) and Path(name).suffix.lower() in EXTENSIONS:
                yield (Path(place) / name).relative_to(root).as_posix()


def _from_table(root: Path) -> list[_Entry]:
    table = root / SPLITS_FILE
    entries: dict[str, _Entry] = {}
    problems: list[Problem] = []
    for line, row in _rows(table):
        entry = _entry(root, row)
        if isinstance(entry, str):
            problems.append(Problem("dataset.root", f"{table}, line {line}: {entry}"))
        elif entry.path in entries:
            problems.append(Problem("dataset.root", f"{table}, line {line}: {entry.path!r} is listed twice"))
        else:
            entries[entry.path] = entry
    if problems:
        raise UsageError(_shortened(problems))
    return list(entries.values())


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows with their line numbers."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise usage_error(
                    "dataset.root",
                    f"{table}: the columns {', '.join(missing)} are missing from line 1",
                )
            return [(reader.line_num, {name: row[name] or "" for name in _COLUMNS}) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise usage_error("dataset.root", f"{table}: not a readable table in UTF-8: {error}") from None


def _entry(root: Path, row: dict[str, str]) -> _Entry | str:
    """The entry of a row, or what is wrong with it."""
    label, split = row["label"].strip(), row["split"].strip()
    empty = [name for name, value in (("path", row["path"]), ("label", label), ("split", split)) if not value]
    if empty:
        return f"{', '.join(empty)} is empty"
    path = PurePosixPath(row["path"])
    if path.is_absolute() or ".." in path.parts:
        return f"{row['path']!r} leaves the folder"
    part = _PART_NAMES.get(split.lower())
    if part is None:
        return f"unknown split {split!r}: it must be train, val or test"
    if not _is_file(root / path):
        return f"no such file: {row['path']!r}"
    return _Entry(path.as_posix(), label, part)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or holds a NUL
        return False


def _shortened(problems: Sequence[Problem]) -> list[Problem]:
    more = len(problems) - _MOST_NAMED
    rest = [Problem("dataset.root", f"and {more} more of the kind")] if more > 0 else []
    return [*problems[:_MOST_NAMED], *rest]
