"""What lies in a store's folder: finished entries, those being built, what is left of removed ones; sizes and uses."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from thawline.files import is_temporary
from thawline.store.contents import MARKER_FILE, Metadata, check_sizes
from thawline.store.entries import Entry
from thawline.store.file_locks import try_lock
from thawline.store.refusals import DamagedEntryError

ENTRY = re.compile(r"[0-9a-f]{20}")
LOCK = re.compile(r"\.[0-9a-f]{20}\.lock")
PARTIAL = re.compile(r"\.[0-9a-f]{20}\.[0-9a-f]{32}\.partial")
REMOVED = re.compile(r"\.[0-9a-f]{20}\.[0-9a-f]{32}\.removed")
"""The names of entries, of their builders' locks, of entries being built and of removed ones."""

EntryState = Literal["whole", "in use", "being built", "unfinished", "damaged", "not readable now"]


@dataclass(frozen=True)
class EntryStatus:
    """One entry as it lies on disk.

    `identity` is the name of its folder, `last_used` is in seconds since 1970, `problem` is empty where there is none.
    """

    identity: str
    bytes: int
    last_used: float
    state: EntryState
    problem: str = ""
    title: str = ""
    key: dict[str, Any] | None = None
    samples: int = 0


def named(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """What in `folder` has such a name, sorted; nothing where there is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if name.fullmatch(path.name) and not path.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []


def lock_file(folder: Path, identity: str) -> Path:
    """The lock of whoever builds or discards an entry."""
    return folder / f".{identity}.lock"


@contextlib.contextmanager
def lock_of_dead_builder(partial: Path) -> Iterator[bool]:
    """Whether nobody builds the entry of this folder; nobody starts to within the block."""
    lock = try_lock(lock_file(partial.parent, partial.name.split(".")[1]), create=True)
    if lock is None:
        yield False
        return
    with lock:
        yield True


def statuses(folder: Path) -> list[EntryStatus]:
    """Everything in the folder, last used first, without comparing checksums."""
    found = [_status(path) for path in named(folder, ENTRY)]
    found += [_partial_status(path) for path in named(folder, PARTIAL)]
    return sorted(found, key=lambda status: (-status.last_used, status.identity))


def verified(folder: Path) -> list[EntryStatus]:
    """Every finished entry, after comparing each of its checksums."""
    return [_verified(folder, status) for status in statuses(folder) if ENTRY.fullmatch(status.identity)]


def bytes_in(path: Path) -> int:
    """Bytes of the files of an entry; 0 where it has just been removed."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for file in path.iterdir():
            total += file.lstat().st_size
    return total


def last_used(path: Path) -> float:
    """When an entry was used last, in seconds since 1970."""
    for candidate in (path / MARKER_FILE, path):
        with contextlib.suppress(OSError):
            return candidate.stat().st_mtime
    return 0.0


def _status(path: Path) -> EntryStatus:
    status = EntryStatus(path.name, bytes_in(path), last_used(path), "whole")
    try:
        metadata = Metadata.read(path)
        check_sizes(path, metadata.spec())
        state: EntryState = "in use" if _in_use(path) else "whole"
    except (DamagedEntryError, OSError) as problem:
        return _with_problem(status, problem)
    return replace(status, state=state, title=metadata.title, key=metadata.key, samples=metadata.samples)


def _partial_status(path: Path) -> EntryStatus:
    status = EntryStatus(path.name, bytes_in(path), last_used(path), "being built")
    with contextlib.suppress(OSError), lock_of_dead_builder(path) as dead:
        if dead:
            return replace(status, state="unfinished", problem="the process that built it is gone")
    return status


def _verified(folder: Path, status: EntryStatus) -> EntryStatus:
    if status.problem:
        return status
    try:
        with Entry.open(folder / status.identity) as entry:
            entry.verify()
    except (DamagedEntryError, OSError) as problem:
        return _with_problem(status, problem)
    return status


def _with_problem(status: EntryStatus, problem: DamagedEntryError | OSError) -> EntryStatus:
    return replace(status, state="not readable now" if is_temporary(problem) else "damaged", problem=str(problem))


def _in_use(path: Path) -> bool:
    try:
        lock = try_lock(path / MARKER_FILE)
    except PermissionError:
        return False
    except OSError as error:
        if (path / MARKER_FILE).exists():
            return False
        raise DamagedEntryError(f"{MARKER_FILE} is missing") from error
    if lock is None:
        return True
    lock.release()
    return False
