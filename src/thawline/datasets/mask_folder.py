"""A user's own images with masks: folders of both, or a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from thawline.datasets.base import AnnotatedDataset, Folder, names_alone
from thawline.datasets.folders import check_folder
from thawline.datasets.images import FileImages
from thawline.datasets.mask_files import MaskFiles
from thawline.datasets.mask_values import Color, MaskCoding
from thawline.datasets.pairs import Pairing
from thawline.datasets.splits import Collection
from thawline.datasets.targets import MOST_CLASSES, as_objects
from thawline.errors import usage_error

_IGNORED_COLOR = "ignore"


def _several(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else [] if value is None else value


Values = Annotated[list[Annotated[int, Field(ge=0, lt=2**16)]], BeforeValidator(_several)]
"""One value of a mask, several, or none."""
Channel = Annotated[int, Field(ge=0, le=255)]


class MaskFolder(AnnotatedDataset):
    """Images with a mask each, whose pixels hold the index of a class. The first of these layouts that is found counts.

    1. ``root/splits.csv`` with the columns path, mask, split (train, val, test); paths are relative to the root.
    2. ``root/images`` and ``root/masks``: a mask has the name of its image, whatever the ending. If both are divided
       into train, val and test folders, these are the parts; else val and test are cut.
    3. ``root/train/images`` and ``root/train/masks``, and the same under val and test.
    4. ``root/train`` and ``root/trainannot`` (train_annot, train_masks, train_labels), and the same of val and test.

    Masks are PNG, BMP, GIF or TIFF files of 1 to 16 bits with the size of the upright image. Grey values and the
    indices of a palette are the values of classes as they stand; coloured masks need `colors`.

    Attributes:
        root: The folder.
        images: The name of the folder of images.
        masks: The name of the folder of masks.
        mask_suffix: What a mask's name has after the image's, before the ending: _mask for 7.jpg and 7_mask.png.
        classes: The names of the classes with the values 0, 1, ...; or name: value; or a file below the root with a
            name a line. A class whose value is ignored is left out. Null: the names in `colors`.
        ignore_index: Values of a mask that are no class: such pixels are neither trained on nor evaluated.
        colors: The colour of each class, name: [red, green, blue], for masks in colours or with a palette whose
            colours count and not its indices. The colour called ignore is that of pixels to be ignored.
    """

    NEUTRAL: ClassVar[frozenset[str]] = frozenset({"root"})

    root: Folder
    images: str = "images"
    masks: str = "masks"
    mask_suffix: str = ""
    classes: Annotated[
        list[str] | dict[str, Annotated[int, Field(ge=0, lt=2**16)]] | str | None, BeforeValidator(names_alone)
    ] = None
    ignore_index: Values = Field(default_factory=lambda: [255])
    colors: dict[str, tuple[Channel, Channel, Channel]] | None = None

    @model_validator(mode="after")
    def _one_meaning(self) -> MaskFolder:
        if self.colors is not None and isinstance(self.classes, dict):
            raise ValueError("dataset.colors gives the classes' colours: dataset.classes gives names alone, no values")
        return self

    def check(self) -> None:
        """Whether the folder is there, and the classes are named."""
        check_folder(self.root)
        if self.classes is None and self.colors is None:
            message = "name the classes that the masks' values stand for, or their colours by dataset.colors"
            raise usage_error("dataset.classes", message)

    def collect(self) -> Collection:
        """The images with their masks, by the layout that the folder has."""
        classes, coding = self._coding()
        pairing = Pairing(self.root, self.images, self.masks, self.mask_suffix)
        pairs = pairing.pairs()
        images = [pair.image for pair in pairs]
        return Collection(
            FileImages(self.root, images, as_objects([None] * len(pairs))),
            classes,
            tuple(pair.part for pair in pairs),
            left_out=dict(pairing.left_out),
            annotations=MaskFiles(self.root, [pair.mask for pair in pairs], coding, images),
        )

    def _coding(self) -> tuple[tuple[str, ...], MaskCoding]:
        """The names of the classes, and what the values of masks mean."""
        names = _names_in(self.root / self.classes) if isinstance(self.classes, str) else self.classes
        if self.colors is not None:
            return _by_color(None if names is None else [*names], self.colors)
        values = names if isinstance(names, Mapping) else {name: value for value, name in enumerate(names or ())}
        if len(values) < len(names or ()) or len({*values.values()}) < len(values):
            raise usage_error("dataset.classes", "a name or a value is given twice")
        kept = {name: value for name, value in values.items() if value not in self.ignore_index}
        _check_count(len(kept))
        return tuple(kept), MaskCoding(values=tuple(kept.values()), ignored=tuple(self.ignore_index))


def _names_in(file: Path) -> list[str]:
    """The names in a text file, one a line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error("dataset.classes", f"{file}: no readable list of names: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _by_color(names: list[str] | None, colors: Mapping[str, Color]) -> tuple[tuple[str, ...], MaskCoding]:
    own = [name for name in colors if name != _IGNORED_COLOR] if names is None else names
    if missing := [name for name in own if name not in colors]:
        raise usage_error("dataset.colors", f"no colour is given for the class {missing[0]!r}")
    if unknown := [name for name in colors if name not in own and name != _IGNORED_COLOR]:
        raise usage_error("dataset.colors", f"{unknown[0]!r} is no class of dataset.classes")
    if len({*colors.values()}) < len(colors):
        raise usage_error("dataset.colors", "two classes have the same colour")
    _check_count(len(own))
    ignored = (colors[_IGNORED_COLOR],) if _IGNORED_COLOR in colors else ()
    return tuple(own), MaskCoding(colors=tuple(colors[name] for name in own), ignored_colors=ignored)


def _check_count(count: int) -> None:
    if not 2 <= count <= MOST_CLASSES:
        raise usage_error(
            "dataset.classes", f"masks need 2 to {MOST_CLASSES} classes that are not ignored, not {count}"
        )
