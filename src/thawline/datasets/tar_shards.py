"""Images in tar archives, as WebDataset writes them."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import field_validator

from thawline.datasets import image_files
from thawline.datasets.base import Folder, ImageDataset
from thawline.datasets.columns import Texts
from thawline.datasets.folders import PART_NAMES, check_folder, in_order, normal, unsearchable
from thawline.datasets.ignored import ending, is_system
from thawline.datasets.inspections import Seen, inspected
from thawline.datasets.looks import STAMP_BYTES, OpenFile
from thawline.datasets.pools import shortened
from thawline.datasets.splits import Collection, Inspection, Part
from thawline.datasets.tar_index import Shard, Wanted, read_shard
from thawline.errors import Problem, UsageError, usage_error
from thawline.runtime.steps import step

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class TarShards(ImageDataset):
    """Images in tar archives (shards), as WebDataset writes them: ``000017.jpg`` and ``000017.cls`` are a sample.

    Members that have the same name up to the first dot are a sample. A shard belongs to the part that its name or a
    folder above it names (``train-000000.tar``, ``val/00.tar``); what is missing of val and test is cut from train.

    Each image is read in place, so shards cannot be compressed. The library webdataset reads shards from beginning to
    end and shuffles within a buffer; here order and augmentation are functions of the seed, the epoch and the image,
    which needs any image at any time.

    Attributes:
        root: The folder of the shards, searched to any depth.
        image: The ending of a sample's image; null: the one that is an image by its ending.
        label: The ending of a sample's label, a text that is its class; ``json.NAME``: a field of a JSON.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    image: str | None = None
    label: str = "cls"

    @field_validator("image", "label")
    @classmethod
    def _without_its_dot(cls, value: str | None) -> str | None:
        return value if value is None else value.removeprefix(".")

    def check(self) -> None:
        """Whether the folder is there."""
        if self.root.is_file():
            raise usage_error("dataset.root", f"{self.root} is a file: give the folder that holds the shards")
        check_folder(self.root)

    def collect(self) -> Collection:
        """The images of all shards."""
        left_out = Counter[str]()
        paths = _shards(self.root, left_out)
        parts = _parts(self.root, paths)
        shards = _read(self.root, paths, self._wanted())
        for shard in shards:
            left_out.update(shard.left_out)
        labels = [label for shard in shards for label in shard.labels]
        if not labels:
            there = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items())) or "no members"
            kind = "" if self.image is None else f" .{self.image}"
            raise usage_error("dataset.image", f"{self.root}: no sample has an image{kind}; in the shards: {there}")
        labels = [normal(label) for label in labels]
        classes = in_order(set(labels))
        number = {name: index for index, name in enumerate(classes)}
        counts = [len(shard.labels) for shard in shards]
        images = TarImages(
            self.root,
            paths,
            Texts(f"{path}/{name}" for path, shard in zip(paths, shards, strict=True) for name in shard.names),
            np.repeat(np.arange(len(shards)), counts),
            np.array([start for shard in shards for start in shard.starts], dtype=np.int64),
            np.array([size for shard in shards for size in shard.sizes], dtype=np.int64),
            np.array([number[label] for label in labels], dtype=np.int64),
        )
        part_of = tuple(part for part, count in zip(parts, counts, strict=True) for _ in range(count))
        return Collection(images, classes, part_of, left_out=dict(left_out))

    def _wanted(self) -> Wanted:
        kind, _, name = self.label.partition(".")
        return Wanted(self.image, kind, name) if kind == "json" and name else Wanted(self.image, self.label, None)


@dataclass(frozen=True)
class TarImages:
    """Images that are members of tar archives below `root`.

    Attributes:
        root: The folder of the archives.
        archives: Their paths below it, with forward slashes.
        keys: N unique names: that of the archive, a slash, and that of the member.
        archive: (N,) the archive of each image.
        starts: (N,) where its bytes begin.
        sizes: (N,) how many there are.
        targets: (N,) int64 classes.
        seen: What `inspect` found; `read` gives no other image.
    """

    root: Path
    archives: Sequence[str]
    keys: Sequence[str]
    archive: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    targets: NDArray[np.int64]
    seen: Seen = field(default_factory=Seen, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int) -> Image:
        """The image, in RGB and upright.

        Raises:
            UsageError: it cannot be read, or is not the one that was inspected; names the archive and the member.
        """
        try:
            content = self._member(index, b"").read()
            now = self._member(index, _stamp(self.root / self.archives[int(self.archive[index])])).stamp
            return image_files.decode(self.seen.held(index, content, now, self.locate(index)))
        except (OSError, ValueError, image_files.UnreadableImageError) as error:
            raise usage_error("dataset", f"{self.locate(index)}: not a usable image: {error}") from None

    def key(self, index: int) -> str:
        """The image's name."""
        return self.keys[index]

    def locate(self, index: int) -> str:
        """The path of the archive, and the name in it."""
        return str(self.root / self.keys[index])

    def inspect(self, indices: Sequence[int], cache_dir: Path | None) -> Sequence[Inspection]:
        """Hash and decode every image; not again while its archive has the stamp of an earlier look."""
        stamps = [_stamp(self.root / archive) for archive in self.archives]
        keys = [self.keys[index] for index in indices]

        def opened(place: int) -> _Member:
            return self._member(indices[place], stamps[int(self.archive[indices[place]])])

        return self.seen.note(indices, inspected(self.root, keys, opened, cache_dir))

    def _member(self, index: int, stamp: bytes) -> _Member:
        path = self.root / self.archives[int(self.archive[index])]
        return _Member(path, int(self.starts[index]), int(self.sizes[index]), stamp)


class _Member:
    """Some bytes of a file (`thawline.datasets.looks.Content`)."""

    def __init__(self, path: Path, start: int, size: int, stamp: bytes) -> None:
        self._path, self._start, self._size = path, start, size
        self._stamp = stamp

    @property
    def stamp(self) -> bytes:
        """Of the file and the place in it."""
        place = f"{self._start} {self._size}".encode()
        return hashlib.blake2b(self._stamp + place, digest_size=STAMP_BYTES).digest()

    def read(self) -> bytes:
        """The bytes; raises OSError, and ValueError where the file has become shorter."""
        with self._path.open("rb", buffering=0) as stream:
            stream.seek(self._start)
            content = stream.read(self._size)
        if len(content) < self._size:
            raise ValueError("the archive is cut off")
        return content

    def close(self) -> None:
        """Nothing is open."""


def _stamp(path: Path) -> bytes:
    file = OpenFile(path)
    file.close()
    return file.stamp


def _read(root: Path, paths: Sequence[str], wanted: Wanted) -> list[Shard]:
    """What is in the archives; raises UsageError with all that is wrong with them."""
    shards = []
    with step("reading the shards", len(paths)) as advance:
        for path in paths:
            shards.append(read_shard(root / path, wanted))
            advance(1)
    problems = [
        Problem("dataset", f"{root / path}: {problem}")
        for path, shard in zip(paths, shards, strict=True)
        for problem in shard.problems
    ]
    if problems:
        raise UsageError(shortened(problems))
    return shards


def _shards(root: Path, left_out: Counter[str]) -> list[str]:
    """The archives below the root, in the order of their paths; what else is there is counted."""
    paths: list[str] = []
    packed: list[str] = []
    top = str(root)
    for place, folders, files in os.walk(top, followlinks=False, onerror=unsearchable):
        folders[:] = [name for name in folders if not is_system(name)]
        below = place[len(top) :].strip(os.sep).replace(os.sep, "/")
        for name in files:
            path = f"{below}/{name}" if below else name
            if name.lower().endswith(".tar") and not is_system(name):
                paths.append(path)
            elif name.lower().endswith(_COMPRESSED):
                packed.append(path)
            else:
                left_out[ending(name)] += 1
    if packed:
        what = "is compressed, and images are read from its middle: unpack it to a .tar (gunzip, bunzip2, unxz, unzstd)"
        raise UsageError(shortened([Problem("dataset.root", f"{root / path} {what}") for path in sorted(packed)]))
    if not paths:
        there = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        raise usage_error("dataset.root", f"{root}: no shards (.tar){f'; there: {there}' if there else ''}")
    return sorted(paths)


def _parts(root: Path, paths: Sequence[str]) -> list[Part]:
    """The part of each archive; all are for training where none says a part."""
    said = [_part(path) for path in paths]
    if not any(said):
        return ["train"] * len(paths)
    problems = [
        Problem("dataset.root", f"{root / path}: its name says no part (train, val or test), and those of others do")
        for path, part in zip(paths, said, strict=True)
        if part is None
    ]
    if problems:
        raise UsageError(shortened(problems))
    return [part for part in said if part is not None]


def _part(path: str) -> Part | None:
    """The part that the name of an archive says, or else that of the folder that is nearest to it."""
    for name in reversed(path.removesuffix(".tar").split("/")):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in PART_NAMES:
                return PART_NAMES[word]
    return None
