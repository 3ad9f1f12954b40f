"""Objects as files of instances: the pixels of each object have a value of their own."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from thawline.datasets.base import AnnotatedDataset, Folder, names_alone
from thawline.datasets.folders import check_folder
from thawline.datasets.images import FileImages
from thawline.datasets.mask_files import InstanceFiles
from thawline.datasets.mask_folder import Values
from thawline.datasets.pairs import Pairing
from thawline.datasets.pools import shortened
from thawline.datasets.splits import Collection
from thawline.datasets.table import read_table
from thawline.datasets.targets import as_objects
from thawline.errors import Problem, UsageError, nearest, usage_error


class InstanceFolder(AnnotatedDataset):
    """Images with a file of instances each, as Penn-Fudan has them: 0 is the background, every other value an object.

    ``root/PNGImages/NAME.png`` belongs to ``root/PedMasks/NAME_mask.png``; the layouts are those of `MaskFolder`. The
    files have 8 or 16 bits and the size of the upright image; boxes are those of the objects' pixels.

    Attributes:
        root: The folder.
        images: The name of the folder of images.
        masks: The name of the folder of files of instances.
        mask_suffix: What such a file's name has after the image's, before the ending.
        classes: The names of the classes. With several, `table` gives the class of each object.
        table: A table below the root with the columns mask, value, class: the path of the file below the root, the
            value of the object, and the name of its class. Null: every object is of the one class.
        ignore_index: Values that are no object, beside 0.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    images: str = "PNGImages"
    masks: str = "PedMasks"
    mask_suffix: str = "_mask"
    classes: Annotated[list[str], BeforeValidator(names_alone)] = Field(default_factory=lambda: ["object"])
    table: str | None = None
    ignore_index: Values = Field(default_factory=list)

    def check(self) -> None:
        """Whether the folder is there, and the table where classes need it."""
        check_folder(self.root)
        if len({*self.classes}) < len(self.classes) or not self.classes:
            raise usage_error("dataset.classes", "name each class once")
        if self.table is None and len(self.classes) > 1:
            raise usage_error("dataset.table", "several classes need a table with the columns mask, value, class")

    def collect(self) -> Collection:
        """The images with their objects."""
        pairing = Pairing(self.root, self.images, self.masks, self.mask_suffix)
        pairs = pairing.pairs()
        images, masks = [pair.image for pair in pairs], [pair.mask for pair in pairs]
        labels = None if self.table is None else self._labels(self.table, masks)
        return Collection(
            FileImages(self.root, images, as_objects([None] * len(pairs))),
            tuple(self.classes),
            tuple(pair.part for pair in pairs),
            left_out=dict(pairing.left_out),
            annotations=InstanceFiles(self.root, masks, tuple(self.ignore_index), labels, images),
        )

    def _labels(self, table: str, masks: list[str]) -> list[dict[int, int]]:
        """For each file the class of each value."""
        labels: dict[str, dict[int, int]] = {mask: {} for mask in masks}
        problems: list[Problem] = []
        file = self.root / table
        for line, row in read_table(file, ("mask", "value", "class"), field="dataset.table"):
            said = row if isinstance(row, str) else self._add(labels, row)
            if said is not None:
                problems.append(Problem("dataset.table", f"{file}, line {line}: {said}"))
        if problems:
            raise UsageError(shortened(problems))
        return [labels[mask] for mask in masks]

    def _add(self, labels: dict[str, dict[int, int]], row: dict[str, str]) -> str | None:
        """Add a row; returns what is wrong with it."""
        mask, name = PurePosixPath(row["mask"].strip()).as_posix(), row["class"].strip()
        if mask not in labels:
            return f"no image has the mask {mask!r}"
        if name not in self.classes:
            return f"unknown class {name!r}{nearest(name, self.classes)}"
        if not row["value"].strip().isdecimal():
            return f"the value {row['value']!r} is no whole number"
        value = int(row["value"])
        if value in labels[mask]:
            return f"the value {value} of {mask!r} is there twice"
        labels[mask][value] = self.classes.index(name)
        return None
