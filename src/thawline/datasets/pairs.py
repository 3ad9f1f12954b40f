"""Images and the mask files that belong to them: paired by a table, or by their names in two folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from thawline.datasets import image_files
from thawline.datasets.folders import PART_NAMES, SPLITS_FILE, on_disk, unsearchable
from thawline.datasets.ignored import ending, is_output, is_system, walked_once
from thawline.datasets.pools import listed, shortened
from thawline.datasets.splits import Part
from thawline.datasets.table import listed_once, read_table
from thawline.errors import Problem, UsageError, usage_error

_SUFFIXES = ("annot", "_annot", "_masks", "_labels")
"""What a folder of masks beside a folder of images is called after it, as in ``train`` and ``trainannot``."""


class Pair(NamedTuple):
    """An image and its mask, paths below the root with forward slashes, and the part by the set's own division."""

    image: str
    mask: str
    part: Part


@dataclass(frozen=True)
class Pairing:
    """Where images and their masks are. The first layout that is found counts.

    1. ``root/splits.csv`` with the columns path, mask, split; paths are relative to the root.
    2. ``root/IMAGES`` and ``root/MASKS``; if both are divided into train, val and test folders, these are the parts.
    3. ``root/train/IMAGES`` and ``root/train/MASKS``, and the same under val and test.
    4. ``root/train`` and ``root/trainannot`` (or train_annot, train_masks, train_labels), and the same of val and test.

    Attributes:
        root: The folder.
        images: The name of the folder of images.
        masks: The name of the folder of masks.
        suffix: What the name of a mask has after the image's name, before the ending.
        left_out: Counts, by ending, what lies there and is neither.
    """

    root: Path
    images: str
    masks: str
    suffix: str
    left_out: Counter[str] = field(default_factory=Counter)

    def pairs(self) -> list[Pair]:
        """All pairs; raises UsageError, with every image that has no mask and every mask that has no image."""
        if (self.root / SPLITS_FILE).is_file():
            return self._listed()
        found: list[Pair] = []
        problems: list[Problem] = []
        for part, images, masks in self._folders():
            pairs, wrong = self._by_name(part, images, masks)
            found += pairs
            problems += wrong
        if problems:
            raise UsageError(shortened(problems))
        if not found:
            there = f"; left out there: {listed([f'{n} {kind}' for kind, n in sorted(self.left_out.items())])}"
            raise usage_error("dataset.root", f"{self.root}: no images found{there if self.left_out else ''}")
        return found

    def _folders(self) -> list[tuple[Part, str, str]]:
        """The part, the folder of images and the folder of masks of each pair of folders."""
        if (self.root / self.images).is_dir() and (self.root / self.masks).is_dir():
            inner = _parts(self.root / self.images)
            if inner and inner.keys() == _parts(self.root / self.masks).keys():
                masks = _parts(self.root / self.masks)
                return [(part, f"{self.images}/{name}", f"{self.masks}/{masks[part]}") for part, name in inner.items()]
            return [("train", self.images, self.masks)]
        parts = _parts(self.root)
        found: list[tuple[Part, str, str]] = []
        for part, name in parts.items():
            places = [(f"{name}/{self.images}", f"{name}/{self.masks}"), *((name, name + end) for end in _SUFFIXES)]
            there = [pair for pair in places if all((self.root / folder).is_dir() for folder in pair)]
            if not there:
                raise usage_error("dataset.root", f"{self.root}: no folder of masks belongs to {name!r}")
            found.append((part, *there[0]))
        if "train" not in parts:
            message = f"neither {SPLITS_FILE}, nor {self.images} and {self.masks}, nor train and a folder of its masks"
            raise usage_error("dataset.root", f"{self.root} holds {message}")
        return found

    def _by_name(self, part: Part, images: str, masks: str) -> tuple[list[Pair], list[Problem]]:
        found = self._files(images, image_files.EXTENSIONS)
        drawn = self._files(masks, image_files.EXTENSIONS)
        problems = [
            Problem("dataset.root", f"{self.root / path}: an image of the same name is {self.root / others[0]}")
            for others in found.values()
            for path in others[1:]
        ]
        pairs = []
        for stem, (image, *_) in found.items():
            candidates = drawn.pop(stem + self.suffix, [])
            if len(candidates) == 1:
                pairs.append(Pair(image, candidates[0], part))
                continue
            wanted = f"{self.root / masks / (stem + self.suffix)}.png"
            there = f"{len(candidates)} masks: {listed(candidates)}" if candidates else f"no mask ({wanted})"
            problems.append(Problem("dataset.root", f"{self.root / image}: the image has {there}"))
        problems += [
            Problem("dataset.root", f"{self.root / path}: the mask has no image in {self.root / images}")
            for paths in drawn.values()
            for path in paths
        ]
        return pairs, problems

    def _files(self, folder: str, extensions: frozenset[str]) -> dict[str, list[str]]:
        """The files with such an ending below a folder, by their path in it without the ending."""
        found: dict[str, list[str]] = {}
        for path in walked(self.root, folder, self.left_out):
            if ending(path) in extensions:
                inside = Path(path).relative_to(folder)
                found.setdefault(inside.with_suffix("").as_posix(), []).append(path)
            else:
                self.left_out[ending(Path(path).name)] += 1
        return found

    def _listed(self) -> list[Pair]:
        table = self.root / SPLITS_FILE
        read = read_table(table, ("path", "mask", "split"))
        rows = ((line, row if isinstance(row, str) else self._pair(row)) for line, row in read)
        return list(listed_once(table, rows, lambda pair: pair.image).values())

    def _pair(self, row: dict[str, str]) -> Pair | str:
        """The pair of a row, or what is wrong with it."""
        if empty := [name for name, value in row.items() if not value.strip()]:
            return f"{', '.join(empty)} is empty"
        part = PART_NAMES.get(row["split"].strip().lower())
        if part is None:
            return f"unknown split {row['split']!r}: it must be train, val or test"
        image, mask = on_disk(self.root, row["path"]), on_disk(self.root, row["mask"])
        if image is None or mask is None:
            return f"no such file: {row['path' if image is None else 'mask']!r}"
        return Pair(image, mask, part)


def walked(root: Path, folder: str, left_out: Counter[str]) -> Iterator[str]:
    """The files below a folder of the root, by their paths below the root, without those of systems and of ours."""
    for place, folders, files in walked_once(root / folder, unsearchable):
        if is_output(place, folders):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not is_system(name))
        for name in sorted(files):
            if is_system(name):
                left_out[ending(name)] += 1
            else:
                yield (Path(place) / name).relative_to(root).as_posix()


def _parts(folder: Path) -> dict[Part, str]:
    """The folders directly below that are called like parts."""
    found: dict[Part, str] = {}
    for item in sorted(folder.iterdir()):
        part = PART_NAMES.get(item.name.lower())
        if part is not None and item.is_dir():
            if part in found:
                raise usage_error(
                    "dataset.root", f"{folder}: both {found[part]!r} and {item.name!r} could be the {part} part"
                )
            found[part] = item.name
    return found
