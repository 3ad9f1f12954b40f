"""What may lie among a user's images and is none of them: system folders, thumbnails, and thawline's own outputs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path, PurePath

from thawline.records.names import CONFIG_FILE, RECORD_FILE, STATE_FILE, SWEEP_FILE

_SYSTEM = frozenset(
    {
        # Synology, QNAP
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot",
        # Windows
        "$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
        # macOS, and its archives: shadows of the real files, under the same names
        "__macosx", "network trash folder", "temporary items", "icon\r",
        # Linux
        "lost+found",
    }
)  # fmt: skip
HIDDEN = "hidden or system files"
_IDENTITY = re.compile(r"[0-9a-f]{20}")
_FILES_OF_AN_IDENTITY = (RECORD_FILE, CONFIG_FILE, STATE_FILE, "entry.json")
_own: ContextVar[frozenset[str]] = ContextVar("_own", default=frozenset())


def is_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by an operating system or a network drive."""
    return name.startswith(".") or name.lower() in _SYSTEM


def has_ending(name: str, endings: Collection[str]) -> bool:
    """Whether a file's `ending` is one of these; of a million names this takes a second, and `ending` four."""
    return name[name.rfind(".", 1) :].lower() in endings and not is_system(name)


def ending(name: str) -> str:
    """Under what a file that is left out is counted: its ending in small letters, or that it has none."""
    if is_system(name):
        return HIDDEN
    return PurePath(name).suffix.lower() or "no ending"


def walked_once(
    top: str | os.PathLike[str], onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """What `os.walk` gives, through links to folders too, with each folder once.

    Without that a link to a folder above would be walked forever.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(os.fspath(top), followlinks=True, onerror=onerror):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield place, folders, files


@contextlib.contextmanager
def not_reading(*folders: Path) -> Iterator[None]:
    """Within the block, `is_output` holds for these folders too: where the run itself writes."""
    before = _own.set(frozenset(os.path.realpath(folder) for folder in folders))
    try:
        yield
    finally:
        _own.reset(before)


def is_output(folder: str, subfolders: Sequence[str]) -> bool:
    """Whether thawline writes into this folder, or once did: the outputs, the runs, the sweeps or the cache of a run.

    Args:
        folder: The folder.
        subfolders: The names of the folders in it.
    """
    if os.path.realpath(folder) in _own.get():
        return True
    if _holds_identities(folder, subfolders) or any(Path(folder, "digests").glob("images-*")):
        return True
    return any(_is_kept(Path(folder, name)) for name in ("runs", "sweeps") if name in subfolders)


def _is_kept(folder: Path) -> bool:
    """Whether this is a folder of runs or of sweeps."""
    try:
        inner = list(folder.iterdir())
    except OSError:
        return False
    return _holds_identities(folder, [item.name for item in inner]) or any(
        (item / SWEEP_FILE).is_file() for item in inner
    )


def _holds_identities(folder: Path | str, names: Sequence[str]) -> bool:
    return any(
        Path(folder, name, file).is_file()
        for name in names
        if _IDENTITY.fullmatch(name)
        for file in _FILES_OF_AN_IDENTITY
    )
