"""A run's gallery: its worst and best test images, as small files that the run has drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from thawline.files import read_json
from thawline.records.names import GALLERY_FILE
from thawline.records.part import RecordPart

Place = Literal["worst", "best"]


class GalleryImage(RecordPart):
    """One image.

    Attributes:
        file: its drawing, in the gallery's folder.
        key: the image's name in the data set.
        place: at which end of the test images it is.
        number: how far from that end, from 1.
        score: how well it was predicted; more is better.
        index: of the image in the data set; None in galleries of versions that did not say it.
    """

    file: str
    key: str
    place: Place
    number: int
    score: float
    index: int | None = None


class Gallery(RecordPart):
    """The images, the worst first, then the best first; `score` says what their scores are.

    `drawn` says whether each stands beside what is true of it and what was predicted; without, the files are the images
    alone, small.
    """

    score: str
    drawn: bool = True
    images: list[GalleryImage] = Field(default_factory=list)


def load_gallery(folder: Path) -> Gallery:
    """The gallery of the run in `folder`.

    Raises:
        OSError: there is none.
        ValueError: it is damaged.
    """
    return Gallery.model_validate(read_json(folder / GALLERY_FILE))
