"""Boxes in YOLO's text files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from thawline.datasets.base import AnnotatedDataset, Folder
from thawline.datasets.folders import check_folder
from thawline.datasets.image_files import EXTENSIONS
from thawline.datasets.object_lists import Listed, ObjectLists, listed_objects
from thawline.datasets.pairs import walked
from thawline.datasets.pools import shortened
from thawline.datasets.splits import PARTS, Collection, Part
from thawline.errors import Problem, UsageError, counted, usage_error

_NAMES = ("data.yaml", "classes.txt", "labels/classes.txt", "obj.names")
_OTHERS = ("classes.txt", "train.txt", "val.txt", "test.txt")
"""Text files that are no image's."""


class Yolo(AnnotatedDataset):
    """Images with a text file of boxes each, as the YOLO programs have them.

    ``root/data.yaml`` has the names of the classes (``names``) and the folders of images of ``train``, ``val`` and
    ``test`` (also several, or a text file with a path a line), relative to the root or to ``path`` in it. Without it
    the names are in ``root/classes.txt``, one a line, and the images in ``root/images``, or in its folders train, val
    and test. The boxes of ``.../images/NAME.jpg`` are in ``.../labels/NAME.txt``: a line ``class x y width height`` for
    each, the centre and the size as shares of the upright image. An empty file stands for an image without objects.

    Attributes:
        root: The folder.
        data: The file with the names, below the root; null: data.yaml, or classes.txt.
        unlabelled: An image without a text file is a mistake (error), or an image without objects (background).
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    data: str | None = None
    unlabelled: Literal["error", "background"] = "error"

    def check(self) -> None:
        """Whether the folder is there."""
        check_folder(self.root)

    def collect(self) -> Collection:
        """The images of all parts, with their objects."""
        classes, folders = self._described()
        reading = _Reading(self.root, len(classes), self.unlabelled == "background")
        for part, place in folders:
            for path in self._images(place, reading.left_out):
                reading.read(part, path)
        reading.check_labels()
        if reading.problems:
            raise UsageError(shortened(reading.problems))
        if not reading.paths:
            raise usage_error("dataset.root", f"{self.root}: no images found in {', '.join(p for _, p in folders)}")
        objects = ObjectLists(reading.objects, reading.places, [None] * len(reading.paths), shares=True)
        return listed_objects(
            self.root,
            reading.paths,
            classes,
            reading.parts,
            objects,
            flat=reading.flat,
            left_out=dict(reading.left_out),
        )

    def _described(self) -> tuple[tuple[str, ...], list[tuple[Part, str]]]:
        """The names of the classes, and the folders of images of each part."""
        names = [self.data] if self.data is not None else list(_NAMES)
        file = next((self.root / name for name in names if (self.root / name).is_file()), None)
        if file is None:
            raise usage_error("dataset.data", f"{self.root} holds no {' and no '.join(names)}")
        if file.suffix.lower() not in (".yaml", ".yml"):
            classes = tuple(line.strip() for line in _lines(file) if line.strip())
            return classes, self._undescribed()
        content = _yaml(file)
        base = str(content.get("path") or "")
        folders: list[tuple[Part, str]] = []
        for part in PARTS:
            given = content.get(part, content.get("valid") if part == "val" else None)
            for item in [given] if isinstance(given, str) else given or []:
                folders.append((part, self._place(file, base, str(item))))
        return _class_names(file, content.get("names")), folders or self._undescribed()

    def _undescribed(self) -> list[tuple[Part, str]]:
        named: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "test": "test"}
        found = [(part, f"images/{name}") for name, part in named.items() if (self.root / "images" / name).is_dir()]
        return found or [("train", "images" if (self.root / "images").is_dir() else ".")]

    def _place(self, file: Path, base: str, written: str) -> str:
        """A folder or a list that data.yaml names, below the root: programs write it from several places."""
        below = written.removeprefix("./")
        while below.startswith("../"):
            below = below.removeprefix("../")
        for candidate in (Path(base, written), Path(written), Path(below)):
            place = candidate if candidate.is_absolute() else self.root / candidate
            if place.exists() and place.resolve().is_relative_to(self.root.resolve()):
                return place.resolve().relative_to(self.root.resolve()).as_posix()
        raise usage_error("dataset.data", f"{file}: {written!r}: no such folder in {self.root}")

    def _images(self, place: str, left_out: Counter[str]) -> Iterator[str]:
        """The images of a folder, or of a text file with a path a line."""
        if (self.root / place).is_file():
            lines = [line.strip() for line in _lines(self.root / place)]
            yield from (self._place(self.root / place, "", line) for line in lines if line)
            return
        for path in walked(self.root, place, left_out):
            if Path(path).suffix.lower() in EXTENSIONS:
                yield path
            elif Path(path).suffix.lower() != ".txt":
                left_out[Path(path).suffix.lower() or "no ending"] += 1


class _Line(NamedTuple):
    label: int
    x: float
    y: float
    width: float
    height: float


@dataclass
class _Reading:
    """What the text files hold so far, image by image."""

    root: Path
    classes: int
    background: bool
    paths: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    objects: list[list[Listed]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    used: dict[str, str] = field(default_factory=dict)

    def wrong(self, place: object, message: str) -> None:
        """Keep a problem."""
        self.problems.append(Problem("dataset.root", f"{place}: {message}"))

    def read(self, part: Part, path: str) -> None:
        """Add an image with its objects."""
        name = _label_file(path)
        if path in self.paths:
            return self.wrong(self.root / path, "the image is in two parts")
        if name in self.used:
            return self.wrong(self.root / path, f"an image of the same name is {self.root / self.used[name]}")
        self.used[name] = path
        file = self.root / name
        if not file.is_file() and not self.background:
            what = f"the image has no {file}; dataset.unlabelled=background takes it for one without objects"
            return self.wrong(self.root / path, what)
        self.paths.append(path)
        self.parts.append(part)
        self.places.append(str(file))
        self.objects.append(list(self._objects(file)) if file.is_file() else [])
        return None

    def check_labels(self) -> None:
        """A text file without an image is a mistake, too."""
        for folder in sorted({Path(name).parent.as_posix() for name in self.used}):
            labels = {
                item.stem: item for item in sorted((self.root / folder).glob("*.txt")) if item.name not in _OTHERS
            }
            beside = {Path(path).parent for name, path in self.used.items() if Path(name).parent.as_posix() == folder}
            images = {item.stem for place in beside for item in (self.root / place).iterdir() if item.suffix != ".txt"}
            for stem in sorted(labels.keys() - images):
                self.wrong(labels[stem], "there is no image for it")

    def _objects(self, file: Path) -> Iterator[Listed]:
        for number, text in enumerate(_lines(file), start=1):
            if not text.strip():
                continue
            line = _line(text, self.classes)
            if isinstance(line, str):
                self.wrong(f"{file}, line {number}", line)
            elif line.width == 0 or line.height == 0:
                self.flat.append(f"{file.name}, line {number}: {text.strip()}")
            else:
                x, y, across, down = line.x, line.y, line.width / 2, line.height / 2
                yield Listed(f"line {number}", (x - across, y - down, x + across, y + down), line.label)


def _line(text: str, classes: int) -> _Line | str:
    """What a line says, or what is wrong with it."""
    words = text.split()
    if len(words) != 5:
        outline = "; outlines of objects are not read" if len(words) > 6 else ""
        return f"{counted(len(words), 'value')} where class, x, y, width and height are needed{outline}"
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"{text.strip()!r} holds a word that is no number"
    label = values[0]
    if label != int(label) if math.isfinite(label) else True:
        return f"the class {words[0]} is no whole number"
    if not 0 <= label < classes:
        return f"unknown class {words[0]}: there are {classes}, from 0"
    if not all(0 <= value <= 1 for value in values[1:]):
        return f"the box {' '.join(words[1:])} is not in shares of the image, from 0 to 1"
    return _Line(int(label), *values[1:])


def _label_file(path: str) -> str:
    """The text file of an image: the last folder called images is called labels."""
    parts = list(Path(path).parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt").as_posix()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error("dataset.root", f"{file}: cannot be read: {error}") from None


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise usage_error("dataset.data", f"{file}: not yaml: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise usage_error("dataset.data", f"{file}: it must hold names, train and val")
    return content


def _class_names(file: Path, names: Any) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise usage_error("dataset.data", f"{file}: names must have the numbers 0 to {len(names) - 1}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise usage_error("dataset.data", f"{file}: it has no list of names")
    return tuple(map(str, names))
