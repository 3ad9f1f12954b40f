"""The two kinds of images that data sets hold: pixels in memory, and files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thawline.datasets import image_files
from thawline.datasets.columns import Texts
from thawline.datasets.inspections import Seen, inspected
from thawline.datasets.looks import OpenFile, stamped
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

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> Sequence[Inspection]:
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
        seen: What `inspect` found; `read` gives no other image.
    """

    root: Path
    paths: Sequence[str]
    targets: NDArray[np.generic]
    seen: Seen = field(default_factory=Seen, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.paths, Texts):
            object.__setattr__(self, "paths", Texts(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image:
        """The image, in RGB and upright.

        Raises:
            UsageError: it cannot be read, or is not the one that was inspected; names the file.
        """
        return image_files.read(self.root / self.paths[index], "dataset", functools.partial(self._content, index))

    def key(self, index: int) -> str:
        """The image's path below the root."""
        return self.paths[index]

    def locate(self, index: int) -> str:
        """The image's path."""
        return str(self.root / self.paths[index])

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> Sequence[Inspection]:
        """Hash and decode every file.

        A file is not decoded again while its stamp (`thawline.datasets.looks.stamp`) is that of an earlier look.
        """
        paths = [self.paths[index] for index in indices]
        # A path is not put together by pathlib: of small files that would be a fifth of a second look at them.
        top = str(self.root / "_")[:-1]
        found = inspected(self.root, paths, lambda index: OpenFile(top + paths[index]), cache_dir)
        return self.seen.note(indices, found)

    def _content(self, index: int, path: Path) -> bytes:
        content, stamp = stamped(path)
        return self.seen.held(index, content, stamp, path)
