"""The two kinds of images that data sets hold: pixels in memory, and files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thawline.datasets import image_files
from thawline.datasets.looks import Looks, Stamp, in_threads, stamp
from thawline.datasets.splits import Inspection

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


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
        height, width = self.pixels.shape[1:3]
        return [Inspection(digest, pixels=digest, size=(height, width)) for digest in digests]


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

        A file is not decoded again while its stamp (`thawline.datasets.looks.Stamp`) is that of an earlier look.
        """
        known = Looks.load("images", self.root, cache_dir)
        found = in_threads("reading the data set", lambda index: self._look(self.paths[index], known), indices)
        known.save(
            {
                self.paths[index]: (look.stamp, _values(look.inspection))
                for index, look in zip(indices, found, strict=True)
                if look.stamp is not None
            }
        )
        return [look.inspection for look in found]

    def _look(self, path: str, known: Looks) -> _Look:
        file = self.root / path
        try:
            stamped = stamp(file)
            inspection = _inspection(known.of(path, stamped))
            if inspection is None:
                content = file.read_bytes()
                examined = image_files.examine(content)
                digest = hashlib.sha256(content).hexdigest()
                inspection = Inspection(digest, examined.problem, examined.pixels, examined.remarks, examined.size)
        except (OSError, ValueError) as error:
            return _Look(None, Inspection("", f"cannot be read: {getattr(error, 'strerror', None) or error}"))
        return _Look(stamped, inspection)


class _Look(NamedTuple):
    """What was found in a file while it had a stamp; None: it could not be read."""

    stamp: Stamp | None
    inspection: Inspection


def _inspection(found: list[Any] | None) -> Inspection | None:
    """What an earlier look found, where it is whole."""
    match found:
        case [str(digest), str() | None as problem, str(pixels), [*remarks], [int(height), int(width)]]:
            whole = len(digest) == 64 and (problem is not None or len(pixels) == 32)
            if whole and all(isinstance(remark, str) for remark in remarks):
                return Inspection(digest, problem, pixels, tuple(remarks), (height, width))
    return None


def _values(inspection: Inspection) -> list[Any]:
    """What `_inspection` makes an inspection of again, as JSON gives it back."""
    return [*inspection[:3], list(inspection.remarks), list(inspection.size)]
