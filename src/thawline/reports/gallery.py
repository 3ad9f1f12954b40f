"""The report's gallery: the worst and best test images of the best run, as the run has drawn them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from thawline.records import Record, load_record
from thawline.records.gallery import Gallery, GalleryImage, load_gallery
from thawline.records.names import GALLERY_FILE, GALLERY_FOLDER
from thawline.reports.choosing import Group
from thawline.reports.document import Section, StoredImage, number
from thawline.reports.escaping import plain
from thawline.reports.loaded_run import LoadedRun
from thawline.reports.rows import Row
from thawline.reports.study import Study
from thawline.reports.tables import LONGEST_NAME, short

_MOST_BYTES = 700_000
"""Of all images on a page: as text in the page they take a third more, and stay below 1 MB."""
_JPEG = b"\xff\xd8\xff"


def galleries(study: Study) -> Iterable[Section]:
    """For each condition the images of its chosen row's best run by validation, as long as the page has room."""
    left = _MOST_BYTES
    for place, group in enumerate(study.conditions):
        run = study.best_of(group.chosen.runs.values()) if group.chosen else None
        if group.chosen is None or run is None:
            continue
        name = "gallery" if len(study.conditions) == 1 else f"gallery-{place + 1}"
        section = _section(group, group.chosen, run, name)
        size = sum(len(image.content) for image in section.images) if section else 0
        if section and size <= left:
            left -= size
            yield section


def _section(group: Group, row: Row, run: LoadedRun, name: str) -> Section | None:
    try:
        record, gallery = load_record(run.folder), load_gallery(run.folder)
    except (OSError, ValueError, ValidationError):
        return None  # a run of a task without one, or of an earlier version
    if record.files.get(GALLERY_FILE) is None or not gallery.drawn:
        return None
    images = tuple(_stored(run.folder, record, gallery, name))
    if not images:
        return None
    text = (
        f"The test images that one run of {short(row.label) or 'the sweep'} (the best of its seeds by validation, run "
        f"{plain(run.identity, LONGEST_NAME)}) predicted worst and best, by the {plain(gallery.score, 120)}. From left "
        "to right: image, truth, prediction."
    )
    missing = len(gallery.images) - len(images)
    lost = [f"{missing} of its drawings are missing or damaged."] if missing else []
    where = f" on {short(group.label)}" if group.label else ""
    return Section(f"Worst and best test images{where}", (text, *lost), images=images)


def _stored(folder: Path, record: Record, gallery: Gallery, name: str) -> Iterator[StoredImage]:
    for image in gallery.images:
        content = content_of(folder, record, image)
        if content is not None:
            said = f"{image.place.capitalize()} {image.number}: {plain(image.key, 120)}, {number(image.score)}"
            alt = f"{said}. Three panels: the image, the truth, and the prediction."
            yield StoredImage(f"{name}-{image.place}-{image.number}", content, said, alt)


def content_of(folder: Path, record: Record, image: GalleryImage) -> bytes | None:
    """The file's bytes, where they are those that the run wrote."""
    if Path(image.file).name != image.file:
        return None
    try:
        content = (folder / GALLERY_FOLDER / image.file).read_bytes()
    except (OSError, ValueError):
        return None
    digest = record.files.get(f"{GALLERY_FOLDER}/{image.file}")
    return content if content.startswith(_JPEG) and hashlib.sha256(content).hexdigest() == digest else None
