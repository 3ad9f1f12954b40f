"""The public data sets with masks that torchvision knows how to fetch and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from thawline.datasets.base import AnnotatedDataset, Folder
from thawline.datasets.images import FileImages
from thawline.datasets.mask_files import MaskFiles
from thawline.datasets.mask_values import MaskCoding
from thawline.datasets.splits import Collection, Part
from thawline.datasets.targets import IGNORE, as_objects
from thawline.datasets.torchvision_sets import absent, fetched

_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_PET = ("pet", "background", "border")


class VocSegmentation(AnnotatedDataset):
    """Pascal VOC with the class of every pixel: 20 kinds of things and the background (Everingham et al. 2010).

    The authors' train part is train (val is cut from it), and their val part is test, because the masks of their test
    part are not public. Pixels between things (value 255) are ignored.

    Attributes:
        root: The folder that holds the set (``VOCdevkit``), or receives it.
        download: Download the data if it is missing.
        year: Of the challenge, 2007 to 2012.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root", "download"})

    root: Folder = Path("data")
    download: bool = False
    year: Literal["2007", "2008", "2009", "2010", "2011", "2012"] = "2012"

    def check(self) -> None:
        """Whether the set has been fetched, or may be."""
        place = Path("TrainVal", "VOCdevkit") if self.year == "2011" else Path("VOCdevkit")
        if not self.download and not (self.root / place / f"VOC{self.year}").is_dir():
            raise absent(f"{self.root} does not hold Pascal VOC {self.year}")

    def collect(self) -> Collection:
        """The images of both parts with their masks."""
        parts: Mapping[Part, Mapping[str, Any]] = {
            "train": {"year": self.year, "image_set": "train"},
            "test": {"year": self.year, "image_set": "val"},
        }
        instances = fetched("VOCSegmentation", self.root, self.download, parts)
        files = {part: (item.images, item.masks) for part, item in instances.items()}
        coding = MaskCoding(values=tuple(range(len(_VOC))), ignored=(IGNORE,))
        return _collected(self.root, files, _VOC, coding)


class PetSegmentation(AnnotatedDataset):
    """The Oxford-IIIT pets with a trimap each: pet, background, and the border between them (Parkhi et al. 2012).

    The authors' parts are train (val is cut from it) and test.

    Attributes:
        root: The folder that holds the set (``oxford-iiit-pet``), or receives it.
        download: Download the data if it is missing.
        border: Whether the border is a class of its own (class), or neither trained on nor evaluated (ignore).
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root", "download"})

    root: Folder = Path("data")
    download: bool = False
    border: Literal["class", "ignore"] = "class"

    def check(self) -> None:
        """Whether the set has been fetched, or may be."""
        if not self.download and not (self.root / "oxford-iiit-pet").is_dir():
            raise absent(f"{self.root} does not hold OxfordIIITPet")

    def collect(self) -> Collection:
        """The images of both parts with their trimaps."""
        parts: Mapping[Part, Mapping[str, Any]] = {
            "train": {"split": "trainval", "target_types": "segmentation"},
            "test": {"split": "test", "target_types": "segmentation"},
        }
        instances = fetched("OxfordIIITPet", self.root, self.download, parts)
        files = {part: (item._images, item._segs) for part, item in instances.items()}
        classes = _PET if self.border == "class" else _PET[:2]
        coding = MaskCoding(values=(1, 2, 3)[: len(classes)], ignored=() if self.border == "class" else (3,))
        return _collected(self.root, files, classes, coding)


def _collected(
    root: Path, files: Mapping[Part, tuple[Any, Any]], classes: tuple[str, ...], coding: MaskCoding
) -> Collection:
    images = [Path(path).relative_to(root).as_posix() for own, _ in files.values() for path in own]
    masks = [Path(path).relative_to(root).as_posix() for _, own in files.values() for path in own]
    return Collection(
        FileImages(root, images, as_objects([None] * len(images))),
        classes,
        tuple(part for part, (own, _) in files.items() for _ in own),
        annotations=MaskFiles(root, masks, coding, images),
    )
