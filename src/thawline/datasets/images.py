"""The two kinds of pictures that data sets hold: pixels in memory, and files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thawline.datasets import pictures
from thawline.datasets.splits import Inspection
from thawline.errors import usage_error
from thawline.files import atomic_write
from thawline.runtime.cores import available_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True)
class ArrayImages:
    """Pictures whose pixels are in memory.

    Attributes:
        pixels: uint8, (N, H, W) for grey or (N, H, W, 3) for RGB.
        labels: int64, (N,).
        keys: N unique names.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image:
        """The picture, in RGB."""
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.pixels[index])).convert("RGB")

    def key(self, index: int) -> str:
        """The picture's name."""
        return self.keys[index]

    def locate(self, index: int) -> str:
        """The picture's name."""
        return self.keys[index]

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> list[Inspection]:
        """The digest of each picture's pixels. There is nothing to keep: this is as fast as reading."""
        return [Inspection(hashlib.sha256(self.pixels[index].tobytes()).hexdigest()) for index in indices]


@dataclass(frozen=True)
class FileImages:
    """Pictures that are files below `root`.

    Attributes:
        root: The folder that the paths are relative to.
        paths: N unique relative paths with forward slashes; they are the keys.
        labels: int64, (N,).
    """

    root: Path
    paths: Sequence[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image:
        """The picture, in RGB and upright.

        Raises:
            UsageError: it cannot be read; names the file.
        """
        path = self.root / self.paths[index]
        try:
            return pictures.decode(path.read_bytes())
        except OSError as error:
            raise usage_error("dataset", f"{path}: cannot be read: {error.strerror or error}") from None
        except pictures.UnreadablePictureError as error:
            raise usage_error("dataset", f"{path}: not a usable picture: {error}") from None

    def key(self, index: int) -> str:
        """The picture's path below the root."""
        return self.paths[index]

    def locate(self, index: int) -> str:
        """The picture's path."""
        return str(self.root / self.paths[index])

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> list[Inspection]:
        """Hash every file and check that it decodes.

        A file whose size and time of change are those of an earlier look is not read again.
        """
        known = _Looks.load(self.root, cache_dir)
        # Reading, hashing and decoding release Python's lock, so threads use all cores without a copy of the process.
        with ThreadPoolExecutor(max_workers=min(available_cores(), 16)) as pool:
            found = list(pool.map(lambda index: self._look(self.paths[index], known), indices))
        known.save({self.paths[index]: look for index, look in zip(indices, found, strict=True)})
        return [Inspection(digest, problem) for _, _, digest, problem in found]

    def _look(self, path: str, known: _Looks) -> _Look:
        file = self.root / path
        try:
            status = file.stat()
            look = known.of(path, status.st_size, status.st_mtime_ns)
            if look is None:
                content = file.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                look = (status.st_size, status.st_mtime_ns, digest, pictures.check(content))
        except (OSError, ValueError) as error:
            return (-1, -1, "", f"cannot be read: {getattr(error, 'strerror', None) or error}")
        return look


_Look = tuple[int, int, str, str | None]
"""Size in bytes, time of change in nanoseconds, SHA-256 of the content, why it does not decode (None: it does)."""


@dataclass(frozen=True)
class _Looks:
    """What earlier looks at the files of one folder found; a damaged or missing file of looks is an empty one."""

    file: Path | None
    entries: dict[str, Any]

    @classmethod
    def load(cls, root: Path, cache_dir: Path | None) -> _Looks:
        if cache_dir is None:
            return cls(None, {})
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:20]
        file = cache_dir / f"pictures-{name}.json"
        with contextlib.suppress(OSError, ValueError):
            entries = json.loads(file.read_bytes())
            if isinstance(entries, dict):
                return cls(file, entries)
        return cls(file, {})

    def of(self, path: str, size: int, mtime_ns: int) -> _Look | None:
        match self.entries.get(path):
            case [int(known_size), int(known_time), str(digest), str() | None as problem] if len(digest) == 64 and (
                known_size,
                known_time,
            ) == (size, mtime_ns):
                return (known_size, known_time, digest, problem)
        return None

    def save(self, looks: dict[str, _Look]) -> None:
        fresh = {path: list(look) for path, look in looks.items() if look[2]}
        if self.file is None or all(self.entries.get(path) == look for path, look in fresh.items()):
            return
        # A full or read-only disk costs the next run a second look and nothing else.
        with contextlib.suppress(OSError), atomic_write(self.file) as stream:
            stream.write(json.dumps({**self.entries, **fresh}).encode())
