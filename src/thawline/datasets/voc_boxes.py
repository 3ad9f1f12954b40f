"""Boxes in Pascal VOC's xml."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from xml.etree import ElementTree

from pydantic import BeforeValidator

from thawline.datasets.base import AnnotatedDataset, Folder, names_alone
from thawline.datasets.folders import check_folder
from thawline.datasets.image_files import EXTENSIONS
from thawline.datasets.object_lists import Listed, ObjectLists, listed_objects
from thawline.datasets.pairs import walked
from thawline.datasets.pools import shortened
from thawline.datasets.splits import PARTS, Collection, Part
from thawline.datasets.targets import Size
from thawline.errors import Problem, UsageError, nearest, usage_error

_LISTS = Path("ImageSets", "Main")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocBoxes(AnnotatedDataset):
    """Images with an xml of boxes each, in the layout of Pascal VOC.

    ``root/JPEGImages/NAME.jpg`` belongs to ``root/Annotations/NAME.xml``. The names in train.txt, val.txt and test.txt
    of ``root/ImageSets/Main`` are the parts (without train.txt, trainval.txt is train); without any of them, val and
    test are cut from all images. Coordinates count pixels from 1, and both corners belong to the box:
    (xmin, ymin, xmax, ymax) in the file is (xmin - 1, ymin - 1, xmax, ymax). Boxes whose corners in the file have the
    same x or y are of no area: they are left out and counted.

    Attributes:
        root: The folder.
        images: The name of the folder of images.
        annotations: The name of the folder of xml files.
        classes: The names of the classes; null: the names that occur, in alphabetical order.
        difficult: Objects marked as difficult: neither trained on nor counted as missed, as in VOC's own evaluation
            (ignore), objects like others (keep), or as if they were not there (leave_out).
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    images: str = "JPEGImages"
    annotations: str = "Annotations"
    classes: Annotated[list[str] | None, BeforeValidator(names_alone)] = None
    difficult: Literal["ignore", "keep", "leave_out"] = "ignore"

    def check(self) -> None:
        """Whether the folder and its folder of xml files are there."""
        check_folder(self.root)
        for name, folder in (("annotations", self.annotations), ("images", self.images)):
            if not (self.root / folder).is_dir():
                raise usage_error(f"dataset.{name}", f"{self.root / folder}: no such folder")

    def collect(self) -> Collection:
        """The images of all lists, with their objects."""
        left_out: Counter[str] = Counter()
        images = _by_stem(self.root, self.images, EXTENSIONS, left_out)
        files = _by_stem(self.root, self.annotations, frozenset([".xml"]), left_out)
        reading = _Reading(self.classes, self.difficult)
        parts = self._parts(images, files, reading)
        items = [reading.read(self.root / files[name]) for name in parts]
        if reading.problems:
            raise UsageError(shortened(reading.problems))
        classes = tuple(self.classes or sorted({name for item in items for name, _ in item.objects}))
        label = {name: index for index, name in enumerate(classes)}
        objects = [[item._replace(label=label[name]) for name, item in each.objects] for each in items]
        places = [str(self.root / files[name]) for name in parts]
        unlisted = sum(name not in parts for name in images)
        return listed_objects(
            self.root,
            [images[name] for name in parts],
            classes,
            tuple(parts.values()),
            ObjectLists(objects, places, [item.size for item in items]),
            flat=reading.flat,
            left_out={**left_out, **({"images that no list names": unlisted} if unlisted else {})},
        )

    def _parts(self, images: dict[str, str], files: dict[str, str], reading: _Reading) -> dict[str, Part]:
        """The part of each name; what lacks an image or an xml is a problem."""
        folder = self.root / _LISTS
        lists: dict[Part, Path] = {part: folder / f"{part}.txt" for part in PARTS if (folder / f"{part}.txt").is_file()}
        if "train" not in lists and (folder / "trainval.txt").is_file():
            lists["train"] = folder / "trainval.txt"
        parts = _listed(lists, reading)
        for name, (_, file, line) in parts.items():
            if name not in images or name not in files:
                what = f"image in {self.images}" if name not in images else f"xml in {self.annotations}"
                reading.wrong(file, f"there is no {what} for {name!r}", line)
        if lists:
            return {name: part for name, (part, _, _) in parts.items() if name in images and name in files}
        for name in sorted(images.keys() ^ files.keys()):
            if name in images:
                reading.wrong(self.root / images[name], f"there is no xml for the image in {self.annotations}")
            else:
                reading.wrong(self.root / files[name], f"there is no image for the xml in {self.images}")
        return dict.fromkeys(sorted(images.keys() & files.keys()), "train")


def _listed(lists: dict[Part, Path], reading: _Reading) -> dict[str, tuple[Part, Path, int]]:
    """For each name in the lists its part, and where it is listed."""
    found: dict[str, tuple[Part, Path, int]] = {}
    for part, file in lists.items():
        for line, text in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            name = text.split()[0] if text.split() else ""
            if name in found:
                reading.wrong(file, f"{name!r} is listed twice, before in {found[name][1].name}", line)
            elif name:
                found[name] = (part, file, line)
    return found


@dataclass
class _Xml:
    """What one file says: the stated size, and the objects with the names of their classes."""

    size: Size | None
    objects: list[tuple[str, Listed]]


@dataclass
class _Reading:
    """Reads xml files and keeps what is wrong with them, and which boxes have no area."""

    classes: list[str] | None
    difficult: str
    flat: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, file: Path, message: str, line: int | None = None) -> None:
        """Keep a problem."""
        self.problems.append(Problem("dataset.root", f"{file}{f', line {line}' if line else ''}: {message}"))

    def read(self, file: Path) -> _Xml:
        """The objects of a file."""
        try:
            content = file.read_bytes()
            # Entities could name other files, or grow without end; no annotation needs them.
            if b"<!ENTITY" in content:
                raise ValueError("it defines entities")
            root = ElementTree.fromstring(content)  # noqa: S314  # without entities of its own
        except ElementTree.ParseError as error:
            line, column = error.position
            self.wrong(file, f"not xml (column {column + 1}: {str(error).split(':')[0]})", line)
            return _Xml(None, [])
        except (OSError, ValueError) as error:
            self.wrong(file, f"cannot be read: {error}")
            return _Xml(None, [])
        found = []
        for number, node in enumerate(root.findall("object"), start=1):
            item = self._object(file, f"object {number}", node)
            if item is not None:
                found.append(item)
        return _Xml(_size(root), found)

    def _object(self, file: Path, where: str, node: ElementTree.Element) -> tuple[str, Listed] | None:
        name = (node.findtext("name") or "").strip()
        if not name or (self.classes is not None and name not in self.classes):
            self.wrong(file, f"{where}: unknown class {name!r}{nearest(name, self.classes or ())}")
            return None
        texts = [(node.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
        try:
            xmin, ymin, xmax, ymax = (float(text) for text in texts)
        except ValueError:
            xmin = math.nan
        if not math.isfinite(xmin) or not all(map(math.isfinite, (ymin, xmax, ymax))):
            self.wrong(file, f"{where} ({name}): the box {', '.join(texts)} is not xmin, ymin, xmax and ymax")
            return None
        if xmax < xmin or ymax < ymin:
            self.wrong(file, f"{where} ({name}): the box {', '.join(texts)} ends before it begins")
            return None
        if xmax == xmin or ymax == ymin:
            self.flat.append(f"{file.name}: {where} ({name}) {', '.join(texts)}")
            return None
        difficult = (node.findtext("difficult") or "0").strip() == "1"
        if difficult and self.difficult == "leave_out":
            return None
        return name, Listed(where, (xmin - 1, ymin - 1, xmax, ymax), 0, difficult and self.difficult == "ignore")


def _size(root: ElementTree.Element) -> Size | None:
    """The size that the file states; some programs write zeros."""
    try:
        height, width = int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0)
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _by_stem(root: Path, folder: str, endings: frozenset[str], left_out: Counter[str]) -> dict[str, str]:
    """The files below a folder by their path in it without the ending."""
    found: dict[str, str] = {}
    for path in walked(root, folder, left_out):
        if Path(path).suffix.lower() not in endings:
            left_out[Path(path).suffix.lower() or "no ending"] += 1
            continue
        name = Path(path).relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise usage_error("dataset.root", f"{root / path}: a file of the same name is {root / found[name]}")
        found[name] = path
    return found
