"""Files and folders as users have them: found as they are written, named where they are not there."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from thawline.datasets.splits import Part
from thawline.errors import usage_error

SPLITS_FILE = "splits.csv"
PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip", ".7z", ".rar")


def check_folder(root: Path) -> None:
    """Raise UsageError where the folder is not there."""
    if root.is_dir():
        return
    if not root.exists():
        raise usage_error("dataset.root", f"{root}: no such folder{_quoting(root.name)}")
    if root.suffix.lower() in _ARCHIVES:
        raise usage_error("dataset.root", f"{root} is an archive: unpack it and give the folder")
    raise usage_error("dataset.root", f"{root} is not a folder")


def unsearchable(error: OSError) -> NoReturn:
    """Raise UsageError: a folder cannot be searched."""
    raise usage_error("dataset.root", f"{error.filename}: cannot be searched: {error.strerror or error}") from None


def on_disk(root: Path, written: str) -> str | None:
    """The file below the root that a table means: as written, or as another system would write it."""
    for text in dict.fromkeys((written, written.strip(), written.strip().replace("\\", "/"))):
        path = PurePosixPath(text)
        if ".." in path.parts or path.is_absolute():
            continue
        if _is_file(root / path):
            return path.as_posix()
        if not text.isascii() and (found := _as_encoded(root, path.parts)) is not None:
            return found.relative_to(root).as_posix()
    return None


def _as_encoded(place: Path, names: Sequence[str]) -> Path | None:
    """The file with these names below `place`, with their accents encoded as they are on disk."""
    if not names:
        return place if _is_file(place) else None
    try:
        alike = sorted(item for item in place.iterdir() if normal(item.name) == normal(names[0]))
    except OSError:
        return None
    found = (_as_encoded(item, names[1:]) for item in alike)
    return next((file for file in found if file is not None), None)


def normal(name: str) -> str:
    """Composed accents: macOS and some archives write them apart, others together."""
    return unicodedata.normalize("NFC", name)


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Classes in the order of their names, or of their numbers where all of them are numbers."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or holds a NUL
        return False


def _quoting(name: str) -> str:
    """A hint where the configuration may have read the folder's name as a number, and so changed it."""
    try:
        float(name)
    except ValueError:
        return ""
    return "; a name that reads as a number is written in quotes: 'dataset.root=\"NAME\"'"
