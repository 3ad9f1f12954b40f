"""A user's own images: folders, or a table of path, label and split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection as Container
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

import numpy as np

from thawline.datasets.base import Folder, ImageDataset
from thawline.datasets.columns import Texts
from thawline.datasets.folders import PART_NAMES, SPLITS_FILE, check_folder, in_order, normal, on_disk, unsearchable
from thawline.datasets.ignored import ending, has_ending, is_output, is_system, walked_once
from thawline.datasets.image_files import EXTENSIONS
from thawline.datasets.images import FileImages
from thawline.datasets.pools import MOST_NAMED, shortened
from thawline.datasets.splits import Collection, Part
from thawline.datasets.table import listed_once, read_table
from thawline.errors import Problem, UsageError, usage_error

_OUTSIDE = "images outside the class folders"
_IMAGES, _MASKS = ("images", "image", "imgs"), ("masks", "mask", "annotations", "labels", "ground_truth", "gt")
_UNLISTED = f"images that {SPLITS_FILE} does not list"


class _Entry(NamedTuple):
    path: str  # below the root, with forward slashes
    label: str
    part: Part


@dataclass
class _Entries:
    """The images of the set, in columns: a million of them as they are found take 16 MB beside their paths."""

    paths: list[Texts] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def add(self, paths: Sequence[str], label: str, part: Part) -> None:
        """Images of one class and one part."""
        self.paths.append(Texts(paths))
        self.labels += [label] * len(paths)
        self.parts += [part] * len(paths)


@dataclass
class _Survey:
    """What is found below a root and is not an image of the set.

    Attributes:
        root: The folder.
        left_out: How many files were left out by their ending; a folder that was not looked into is one ``name/``.
        warnings: What a reader of the results has to know.
    """

    root: Path
    left_out: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


class ImageFolder(ImageDataset):
    """Images in a folder. The first of these layouts that is found counts.

    1. ``root/splits.csv`` with the columns path, label, split (see `thawline.datasets.table`); paths are relative to
       the root and stay in it.
    2. ``root/train/CLASS/...`` and the same under ``val`` (or valid, validation) and ``test``.
    3. ``root/CLASS/...``: val and test are cut.

    Within a class, folders are searched to any depth; symbolic links are followed. Files that are not images by their
    name are left out and counted, and so are hidden files, system folders, the thumbnails of network drives, and the
    folders into which thawline writes. Classes are in the order of their names, or of their numbers where all of them
    are numbers; names that differ only in how their accents are encoded are one class.

    Attributes:
        root: The folder.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder

    def check(self) -> None:
        """Whether the folder is there."""
        check_folder(self.root)

    def collect(self) -> Collection:
        """The images by the layout that the folder has."""
        survey = _Survey(self.root)
        entries = _Entries()
        if (self.root / SPLITS_FILE).is_file():
            _from_table(survey, entries)
        elif folders := _split_folders(survey):
            for part, name in folders.items():
                _class_folders(survey, entries, f"{name}/", part, required=self.classes is None)
        else:
            _class_folders(survey, entries, "", "train", required=self.classes is None)
        if not entries.labels:
            kinds = ", ".join(sorted(EXTENSIONS))
            raise usage_error("dataset.root", f"{self.root}: no images found ({kinds}){_instead(survey.left_out)}")
        classes = in_order(set(entries.labels))
        if self.classes is None:
            _refuse_masks(self.root, classes)
        number = {name: index for index, name in enumerate(classes)}
        labels = np.array([number[label] for label in entries.labels], dtype=np.int64)
        images = FileImages(self.root, Texts(path for paths in entries.paths for path in paths), labels)
        return Collection(images, classes, tuple(entries.parts), tuple(survey.warnings), dict(survey.left_out))


def _refuse_masks(root: Path, classes: Sequence[str]) -> None:
    """Refuse images and their masks as two classes: nothing would look wrong, and every score would be perfect."""
    images = [name for name in classes if name.lower() in _IMAGES]
    masks = [name for name in classes if name.lower() in _MASKS]
    if len(classes) != 2 or not images or not masks:
        return
    (image,), (mask,) = images, masks
    names = "" if (image, mask) == ("images", "masks") else f" dataset.images={image} dataset.masks={mask}"
    looks = f"{root}: {image!r} and {mask!r} look like images with their masks, not like two classes"
    instead = f"masks need dataset=mask_folder{names}; if they are classes: 'dataset.classes=[{image},{mask}]'"
    raise usage_error("dataset.root", f"{looks}; {instead}")


def _subfolders(survey: _Survey, below: str = "") -> list[str]:
    """The folders directly below, without those that hold no images of anybody; files there are counted."""
    names = []
    try:
        with os.scandir(survey.root / below) as found:
            items = sorted(found, key=lambda item: item.name)
    except OSError as error:
        unsearchable(error)
    for item in items:
        if not item.is_dir():
            survey.left_out[_OUTSIDE if has_ending(item.name, EXTENSIONS) else ending(item.name)] += 1
        elif is_system(item.name):
            survey.left_out[f"{item.name}/"] += 1
        else:
            names.append(item.name)
    return names


def _split_folders(survey: _Survey) -> dict[Part, str]:
    """The folder of each part, or nothing where the folders below the root are classes."""
    trial = _Survey(survey.root)
    names = _subfolders(trial)
    folders: dict[Part, str] = {}
    for name in names:
        part = PART_NAMES.get(name.lower())
        if part is None:
            continue
        if part in folders:
            raise usage_error(
                "dataset.root", f"{survey.root}: both {folders[part]!r} and {name!r} could be the {part} part"
            )
        folders[part] = name
    if "train" in folders and _subfolders(_Survey(survey.root), folders["train"]):
        survey.left_out.update(trial.left_out)
        survey.left_out.update(f"{name}/" for name in names if name not in folders.values())
        return folders
    if folders and len(folders) == len(names):
        what = f"{folders['train']!r} holds no class folders" if "train" in folders else "there is no train folder"
        raise usage_error("dataset.root", f"{survey.root}: {what}")
    return {}


def _class_folders(survey: _Survey, entries: _Entries, below: str, part: Part, *, required: bool) -> None:
    """Add the images of each class; a folder without any is an error where it is `required` to be a class."""
    problems: list[Problem] = []
    spellings: dict[str, list[str]] = {}
    for name in _subfolders(survey, below):
        spellings.setdefault(normal(name), []).append(name)
    for label, names in spellings.items():
        if len(names) > 1:
            survey.warnings.append(
                f"{len(names)} folders in {survey.root / below} are called {label!r}, with differently encoded accents:"
                " they are one class"
            )
        for name in names:
            found = _image_paths(survey, f"{below}{name}")
            if not found.paths and not found.outputs and required:
                where = survey.root / below / name
                what = f"{where}: the folder of a class holds no images{_instead(found.left_out)}"
                problems.append(Problem("dataset.root", what))
            entries.add(sorted(found.paths), label, part)
    if problems:
        raise UsageError(shortened(problems))


@dataclass
class _Found:
    """What is below a folder: image paths, the rest by its ending, and whether thawline writes there."""

    paths: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    outputs: bool = False


def _image_paths(survey: _Survey, folder: str) -> _Found:
    """The image files below a folder of the root; what else is there is counted in the survey."""
    found = _Found()
    top = str(survey.root / folder)
    for place, folders, files in walked_once(top, unsearchable):
        below = folder + place[len(top) :].replace(os.sep, "/")
        if is_output(place, folders):
            found.left_out[f"{below}/"] += 1
            found.outputs = True
            folders.clear()
            continue
        found.left_out.update(f"{name}/" for name in folders if is_system(name))
        folders[:] = sorted(name for name in folders if not is_system(name))
        for name in files:
            if has_ending(name, EXTENSIONS):
                found.paths.append(f"{below}/{name}")
            else:
                found.left_out[ending(name)] += 1
    survey.left_out.update(found.left_out)
    return found


def _instead(left_out: Counter[str]) -> str:
    """What there is where images were expected."""
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items())[:MOST_NAMED])
    return f"; left out there: {listed}" if listed else ""


def _from_table(survey: _Survey, entries: _Entries) -> None:
    table = survey.root / SPLITS_FILE
    rows = ((line, row if isinstance(row, str) else _entry(survey.root, row)) for line, row in read_table(table))
    listed = listed_once(table, rows, lambda entry: entry.path)
    _count_unlisted(survey, listed)
    entries.paths.append(Texts(listed))
    entries.labels += [entry.label for entry in listed.values()]
    entries.parts += [entry.part for entry in listed.values()]


def _count_unlisted(survey: _Survey, listed: Container[str]) -> None:
    """Count the files that lie beside the listed ones."""
    folders = {path.rpartition("/")[0] for path in listed} | {""}
    for folder in sorted(folders):
        with os.scandir(survey.root / folder) as found:
            for item in found:
                path = f"{folder}/{item.name}" if folder else item.name
                if path not in listed and path != SPLITS_FILE and not item.is_dir():
                    survey.left_out[_UNLISTED if has_ending(item.name, EXTENSIONS) else ending(item.name)] += 1


def _entry(root: Path, row: dict[str, str]) -> _Entry | str:
    """The entry of a row, or what is wrong with it."""
    label, split = row["label"].strip(), row["split"].strip()
    empty = [name for name, value in (("path", row["path"]), ("label", label), ("split", split)) if not value.strip()]
    if empty:
        return f"{', '.join(empty)} is empty"
    path = PurePosixPath(row["path"])
    if path.is_absolute() or ".." in path.parts:
        return f"{row['path']!r} leaves the folder"
    part = PART_NAMES.get(split.lower())
    if part is None:
        return f"unknown split {split!r}: it must be train, val or test"
    there = on_disk(root, row["path"])
    return f"no such file: {row['path']!r}" if there is None else _Entry(there, normal(label), part)
