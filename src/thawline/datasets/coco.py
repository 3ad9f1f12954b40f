"""Boxes and masks in COCO's json."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from thawline.datasets.base import AnnotatedDataset, Folder
from thawline.datasets.folders import PART_NAMES, check_folder, on_disk
from thawline.datasets.image_files import EXTENSIONS
from thawline.datasets.object_lists import Listed, ObjectLists, listed_objects
from thawline.datasets.pairs import walked
from thawline.datasets.pools import shortened
from thawline.datasets.splits import Collection, Part
from thawline.datasets.targets import Size
from thawline.errors import Problem, UsageError, nearest, usage_error

_ROBOFLOW = "_annotations.coco.json"
_UNLISTED = "images that no json lists"


class Coco(AnnotatedDataset):
    """Images with objects in COCO's json. The first of these layouts that is found counts.

    1. What `annotations` says: a json for each part, or one for all images; paths are relative to the root.
    2. ``root/annotations/instances_train2017.json`` with ``root/train2017``, and the same of val and test; the images
       may also lie in ``root/images/train2017``, and any name that holds train, val or test will do.
    3. ``root/train/_annotations.coco.json`` beside its images, and the same under valid and test.
    4. ``root/annotations.json`` with ``root/images``: val and test are cut.

    The ids of categories may be any numbers: classes are in the order of the ids. An image that a json lists without
    an annotation shows no object; it is trained on and evaluated. Boxes of no area in the file are left out and
    counted; boxes that reach beyond their image by up to a pixel are cut at its edge. Crowds (``iscrowd``) are neither
    trained on nor counted as missed.

    Attributes:
        root: The folder.
        annotations: The json file, or one for each part, {train: ..., val: ..., test: ...}; null: found by the layout.
        images: The folder that the names of images are relative to, or one for each part; null: found by the layout.
        masks: Whether objects have masks, from their polygons and run lengths; else only boxes.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    annotations: str | dict[Part, str] | None = None
    images: str | dict[Part, str] | None = None
    masks: bool = False

    def check(self) -> None:
        """Whether the folder is there."""
        check_folder(self.root)

    def collect(self) -> Collection:
        """The images that the json files list, with their objects."""
        files = self._files()
        reading = _Reading(self.root, self.masks)
        for part, (file, folder) in files.items():
            reading.read(part, file, folder)
        if reading.problems:
            raise UsageError(shortened(reading.problems))
        if not reading.paths:
            raise usage_error("dataset.annotations", f"{', '.join(str(f) for f, _ in files.values())} list no images")
        return listed_objects(
            self.root,
            reading.paths,
            tuple(reading.categories.values()),
            reading.parts,
            ObjectLists(reading.objects, reading.places, reading.stated, self.masks),
            flat=reading.flat,
            left_out=_unlisted(self.root, {folder for _, folder in files.values()}, set(reading.paths)),
        )

    def _files(self) -> dict[Part, tuple[Path, str]]:
        """The json of each part, and the folder of its images below the root."""
        files = self.annotations if self.annotations is not None else self._found()
        if isinstance(files, str):
            files = {"train": files}
        found: dict[Part, tuple[Path, str]] = {}
        for part, name in files.items():
            file = self.root / name
            if not file.is_file():
                raise usage_error("dataset.annotations", f"{file}: no such file")
            images = self.images.get(part) if isinstance(self.images, dict) else self.images
            found[part] = (file, images if images is not None else self._images_of(part, file))
        return found

    def _found(self) -> str | dict[Part, str]:
        beside = {
            part: f"{name}/{_ROBOFLOW}" for name, part in PART_NAMES.items() if (self.root / name / _ROBOFLOW).is_file()
        }
        if beside:
            return beside
        by_part: dict[Part, str] = {}
        for file in sorted((self.root / "annotations").glob("*.json")):
            part = _part_in(file.stem)
            if part is None or file.name.startswith(("captions", "person_keypoints", "image_info")):
                continue
            if part in by_part:
                there = f"both {by_part[part]} and annotations/{file.name} could be of the {part} part"
                raise usage_error("dataset.annotations", f"{there}: give one by dataset.annotations={{{part}: FILE}}")
            by_part[part] = f"annotations/{file.name}"
        if by_part:
            return by_part
        if (self.root / "annotations.json").is_file():
            return "annotations.json"
        raise usage_error(
            "dataset.annotations",
            f"{self.root} holds no annotations.json, no annotations/*train*.json and no train/{_ROBOFLOW}: "
            "give the file by dataset.annotations",
        )

    def _images_of(self, part: Part, file: Path) -> str:
        if file.name == _ROBOFLOW:
            return file.parent.relative_to(self.root).as_posix()
        names = [file.stem.removeprefix("instances_"), *(name for name, of in PART_NAMES.items() if of == part), ""]
        places = [f"{above}{name}".rstrip("/") for name in names for above in ("", "images/")]
        return next((place for place in places if place and (self.root / place).is_dir()), ".")


def _part_in(stem: str) -> Part | None:
    return next((part for name, part in PART_NAMES.items() if name in stem.lower()), None)


def _unlisted(root: Path, folders: set[str], listed: set[str]) -> dict[str, int]:
    count: Counter[str] = Counter()
    for folder in sorted(folders):
        for path in walked(root, folder, count):
            if Path(path).suffix.lower() in EXTENSIONS and path not in listed:
                count[_UNLISTED] += 1
    return dict(count)


@dataclass
class _Reading:
    """What the json files hold so far, image by image."""

    root: Path
    masks: bool
    paths: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    objects: list[list[Listed]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    stated: list[Size | None] = field(default_factory=list)
    categories: dict[Any, str] = field(default_factory=dict)
    flat: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def read(self, part: Part, file: Path, folder: str) -> None:
        """Add the images of one file."""
        content = _parsed(file)

        def wrong(message: str) -> None:
            self.problems.append(Problem("dataset.annotations", f"{file}: {message}"))

        categories = {item["id"]: str(item["name"]) for item in _items(content, "categories", ("id", "name"), wrong)}
        if len(categories) < len(content["categories"]) or len({*categories.values()}) < len(categories):
            wrong("a category's id or name is there twice")
        categories = dict(sorted(categories.items()))
        if self.categories and categories != self.categories:
            wrong("its categories are not those of the other files")
        self.categories = self.categories or categories
        images = self._images(part, file, folder, content, wrong)
        label = {number: index for index, number in enumerate(categories)}
        seen: set[Any] = set()
        for item in _items(content, "annotations", ("id", "image_id", "category_id", "bbox"), wrong):
            where = f"annotation {item['id']}"
            if item["id"] in seen:
                wrong(f"{where}: the id is there twice")
            seen.add(item["id"])
            if item["image_id"] not in images:
                wrong(f"{where}: there is no image of the id {item['image_id']!r}")
            elif item["category_id"] not in label:
                wrong(f"{where}: there is no category of the id {item['category_id']!r}")
            else:
                index = images[item["image_id"]]
                self._object(index, where, item, label[item["category_id"]], f"{file.name}: {where}", wrong)

    def _images(
        self, part: Part, file: Path, folder: str, content: Mapping[str, Any], wrong: Callable[[str], None]
    ) -> dict[Any, int]:
        """The index of the image of each id."""
        found: dict[Any, int] = {}
        known = set(self.paths)
        for item in _items(content, "images", ("id", "file_name"), wrong):
            name = str(item["file_name"])
            path = on_disk(self.root, name if folder == "." else f"{folder}/{name}")
            if item["id"] in found:
                wrong(f"image {name!r}: the id {item['id']!r} is there twice")
            elif path is None:
                wrong(f"image {name!r}: no such file in {self.root / folder}")
            elif path in known:
                wrong(f"image {name!r} is listed twice")
            else:
                found[item["id"]] = len(self.paths)
                known.add(path)
                self.paths.append(path)
                self.parts.append(part)
                self.objects.append([])
                self.places.append(f"{file}: image {name!r}")
                self.stated.append(_stated(item))
        return found

    def _object(
        self, index: int, where: str, item: Mapping[str, Any], label: int, place: str, wrong: Callable[[str], None]
    ) -> None:
        match item["bbox"]:
            case [int() | float() as x, int() | float() as y, int() | float() as w, int() | float() as h]:
                pass
            case box:
                return wrong(f"{where}: the box {box!r} is not x, y, width and height")
        if not all(map(math.isfinite, (x, y, w, h))) or w < 0 or h < 0:
            return wrong(f"{where}: the box {item['bbox']} has a negative size, or a coordinate that is no number")
        if w == 0 or h == 0:
            self.flat.append(f"{place} {item['bbox']}")
            return None
        outline = item.get("segmentation") if self.masks else None
        crowd = bool(item.get("iscrowd", 0))
        self.objects[index].append(Listed(where, (x, y, x + w, y + h), label, crowd, outline))
        return None


def _parsed(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        message = f"line {error.lineno}, column {error.colno}: not json ({error.msg})"
        raise usage_error("dataset.annotations", f"{file}, {message}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise usage_error("dataset.annotations", f"{file}: cannot be read: {error}") from None
    names = ("images", "annotations", "categories")
    if not isinstance(content, dict):
        raise usage_error("dataset.annotations", f"{file}: not the json of COCO, an object with {', '.join(names)}")
    for name in names:
        if not isinstance(content.get(name), list):
            raise usage_error("dataset.annotations", f"{file}: it has no list of {name}{nearest(name, content)}")
    return content


def _items(
    content: Mapping[str, Any], name: str, needed: Sequence[str], wrong: Callable[[str], None]
) -> Iterator[Mapping[str, Any]]:
    """The items of a list that have what is needed."""
    for place, item in enumerate(content[name]):
        missing = [key for key in needed if not isinstance(item, dict) or key not in item]
        unhashable = [
            key for key in needed if not missing and key.endswith("id") and isinstance(item[key], (list, dict))
        ]
        if missing or unhashable:
            wrong(f"{name}[{place}]: it has no {', '.join(missing or unhashable)}")
        else:
            yield item


def _stated(item: Mapping[str, Any]) -> Size | None:
    match item:
        case {"height": int(height), "width": int(width)} if height > 0 and width > 0:
            return height, width
    return None
