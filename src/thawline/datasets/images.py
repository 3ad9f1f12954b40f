"""The two kinds of images that data sets hold: pixels in memory, and files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thawline.datasets import image_files
from thawline.datasets.splits import Inspection
from thawline.files import atomic_write
from thawline.runtime.cores import available_cores
from thawline.runtime.steps import step

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


_SAMPLE_BYTES = 1024


@dataclass(frozen=True)
class ArrayImages:
    """Images whose pixels are in memory.

    Attributes:
        pixels: uint8, (N, H, W) for grey or (N, H, W, 3) for RGB.
        targets: (N, ...), one for each image; of classification the classes (N,), int64.
        keys: N unique names.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.generic]
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image:
        """The image, in RGB."""
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.pixels[index])).convert("RGB")

    def key(self, index: int) -> str:
        """The image's name."""
        return self.keys[index]

    def locate(self, index: int) -> str:
        """The image's name."""
        return self.keys[index]

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> list[Inspection]:
        """The digest of each image's pixels. There is nothing to keep: this is as fast as reading."""
        digests = [hashlib.sha256(self.pixels[index].tobytes()).hexdigest() for index in indices]
        return [Inspection(digest, pixels=digest) for digest in digests]


@dataclass(frozen=True)
class FileImages:
    """Images that are files below `root`.

    Attributes:
        root: The folder that the paths are relative to.
        paths: N unique relative paths with forward slashes; they are the keys.
        targets: (N, ...), one for each image; of classification the classes (N,), int64.
    """

    root: Path
    paths: Sequence[str]
    targets: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image:
        """The image, in RGB and upright.

        Raises:
            UsageError: it cannot be read; names the file.
        """
        return image_files.read(self.root / self.paths[index], "dataset")

    def key(self, index: int) -> str:
        """The image's path below the root."""
        return self.paths[index]

    def locate(self, index: int) -> str:
        """The image's path."""
        return str(self.root / self.paths[index])

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> list[Inspection]:
        """Hash and decode every file.

        A file is not decoded again while its stamp (`_Stamp`) is that of an earlier look.
        """
        known = _Looks.load(self.root, cache_dir)
        # Reading, hashing and decoding release Python's lock, so threads use all cores without a copy of the process.
        with (
            step("reading the data set", len(indices)) as advance,
            ThreadPoolExecutor(max_workers=min(available_cores(), 16)) as pool,
        ):
            found = []
            for look in pool.map(lambda index: self._look(self.paths[index], known), indices):
                found.append(look)
                advance(1)
        known.save({self.paths[index]: look for index, look in zip(indices, found, strict=True)})
        return [look.inspection for look in found]

    def _look(self, path: str, known: _Looks) -> _Look:
        file = self.root / path
        try:
            stamp = _stamp(file)
            inspection = known.of(path, stamp)
            if inspection is None:
                content = file.read_bytes()
                examined = image_files.examine(content)
                digest = hashlib.sha256(content).hexdigest()
                inspection = Inspection(digest, examined.problem, examined.pixels, examined.remarks)
        except (OSError, ValueError) as error:
            return _Look(None, Inspection("", f"cannot be read: {getattr(error, 'strerror', None) or error}"))
        return _Look(stamp, inspection)


_Stamp = tuple[int, int, int, int, int]
"""Of a file: size in bytes, times of its content's and its entry's change in nanoseconds, inode, CRC of a sample.

Programs set the first two back; not every file system keeps the next two; so a sample of the content is read as well.
"""


class _Look(NamedTuple):
    """What was found in a file while it had a stamp; None: it could not be read."""

    stamp: _Stamp | None
    inspection: Inspection


def _stamp(file: Path) -> _Stamp:
    with file.open("rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        sample = 0
        for start in sorted({0, status.st_size // 2, max(status.st_size - _SAMPLE_BYTES, 0)}):
            stream.seek(start)
            sample = zlib.crc32(stream.read(_SAMPLE_BYTES), sample)
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, sample)


@dataclass(frozen=True)
class _Looks:
    """What earlier looks at the files of one folder found; a damaged or missing file of looks is an empty one."""

    file: Path | None
    entries: dict[str, Any]

    @classmethod
    def load(cls, root: Path, cache_dir: Path | None) -> _Looks:
        if cache_dir is None:
            return cls(None, {})
        import PIL

        # Another version may decode the same file to other pixels, or not at all.
        name = hashlib.sha256(os.fsencode(root.resolve()) + b"\0" + PIL.__version__.encode()).hexdigest()[:20]
        file = cache_dir / f"images-{name}.json"
        with contextlib.suppress(OSError, ValueError):
            entries = json.loads(file.read_bytes())
            if isinstance(entries, dict):
                return cls(file, entries)
        return cls(file, {})

    def of(self, path: str, stamp: _Stamp) -> Inspection | None:
        match self.entries.get(path):
            case [[*known], str(digest), str() | None as problem, str(pixels), [*remarks]]:
                whole = len(digest) == 64 and (problem is not None or len(pixels) == 32)
                if whole and tuple(known) == stamp and all(isinstance(remark, str) for remark in remarks):
                    return Inspection(digest, problem, pixels, tuple(remarks))
        return None

    def save(self, looks: dict[str, _Look]) -> None:
        fresh = {
            path: [list(look.stamp), *look.inspection[:3], list(look.inspection.remarks)]
            for path, look in looks.items()
            if look.stamp is not None
        }
        if self.file is None or all(self.entries.get(path) == look for path, look in fresh.items()):
            return
        # A full or read-only disk costs the next run a second look and nothing else.
        with contextlib.suppress(OSError), atomic_write(self.file) as stream:
            stream.write(json.dumps({**self.entries, **fresh}).encode())
