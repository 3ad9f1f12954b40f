"""What earlier looks at files found: a file is read and checked again only after it has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thawline.files import atomic_write
from thawline.runtime.cores import available_cores
from thawline.runtime.steps import step

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
_SAMPLE_BYTES = 1024

Stamp = tuple[int, int, int, int, int]
"""Of a file: size in bytes, times of its content's and its entry's change in nanoseconds, inode, CRC of a sample.

Programs set the first two back; not every file system keeps the next two; so a sample of the content is read as well.
"""


def stamp(file: Path) -> Stamp:
    """The file's stamp; raises OSError."""
    with file.open("rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        sample = 0
        for start in sorted({0, status.st_size // 2, max(status.st_size - _SAMPLE_BYTES, 0)}):
            stream.seek(start)
            sample = zlib.crc32(stream.read(_SAMPLE_BYTES), sample)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, sample)


@dataclass(frozen=True)
class Looks:
    """What earlier looks at the files of one folder found; a damaged or missing file of looks is an empty one.

    Attributes:
        file: Where the looks are kept; None: nowhere.
        entries: By the file's path below the folder: its stamp, and what was found.
    """

    file: Path | None
    entries: dict[str, Any]

    @classmethod
    def load(cls, kind: str, root: Path, cache_dir: Path | None) -> Looks:
        """The looks of a kind (``images``, ``masks``) at the files below `root`."""
        if cache_dir is None:
            return cls(None, {})
        import PIL

        # Another version may decode the same file to other pixels, or not at all.
        name = hashlib.sha256(os.fsencode(root.resolve()) + b"\0" + PIL.__version__.encode()).hexdigest()[:20]
        file = cache_dir / f"{kind}-{name}.json"
        with contextlib.suppress(OSError, ValueError):
            entries = json.loads(file.read_bytes())
            if isinstance(entries, dict):
                return cls(file, entries)
        return cls(file, {})

    def of(self, path: str, now: Stamp) -> list[Any] | None:
        """What was found in a file while it had the stamp that it has now."""
        match self.entries.get(path):
            case [[*known], *found] if tuple(known) == now:
                return found
        return None

    def save(self, found: Mapping[str, tuple[Stamp, Sequence[Any]]]) -> None:
        """Keep what was found in files, by their paths: values that JSON gives back as they are."""
        fresh = {path: [list(stamped), *values] for path, (stamped, values) in found.items()}
        if self.file is None or all(self.entries.get(path) == look for path, look in fresh.items()):
            return
        # A full or read-only disk costs the next run a second look and nothing else.
        with contextlib.suppress(OSError), atomic_write(self.file) as stream:
            stream.write(json.dumps({**self.entries, **fresh}).encode())


def in_threads(what: str, look: Callable[[_Item], _Found], items: Sequence[_Item]) -> list[_Found]:
    """Look at every item, in order, as a step of the command that is called `what`."""
    # Reading, hashing and decoding release Python's lock, so threads use all cores without a copy of the process.
    with (
        step(what, len(items)) as advance,
        ThreadPoolExecutor(max_workers=min(available_cores(), 16)) as pool,
    ):
        return list(_advancing(pool.map(look, items), advance))


def _advancing(found: Iterable[_Found], advance: Callable[[int], None]) -> Iterable[_Found]:
    for item in found:
        advance(1)
        yield item
