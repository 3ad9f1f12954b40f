"""The gallery of a run: its worst and best test images, drawn with what is true and predicted, or the worst, small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from thawline.execution.decoding import decoded_images
from thawline.execution.evaluate import outputs_in_batches
from thawline.files import atomic_write, remove_partial, sha256_of_file, write_json
from thawline.network.model import TransferModel
from thawline.planning.context import RunContext
from thawline.records.gallery import Gallery, GalleryImage, Place
from thawline.records.names import GALLERY_FILE, GALLERY_FOLDER

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from thawline.tasks import Shown, SpatialTask, Task

_OF_EACH = 3
_SIDE = 400
_MOST_BYTES = 80_000
_THUMBNAILS = 8
_THUMBNAIL_SIDE = 112
_THUMBNAIL_BYTES = 6_000
_TITLES = ("image", "truth", "prediction")


def write_gallery(
    run: RunContext, task: SpatialTask, model: TransferModel, arrays: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Draw the images and write them into the run's folder, each file whole; returns file name -> SHA-256.

    The model is run again on these few images alone, since what it said of every pixel is not kept.

    Args:
        run: its plan and session.
        task: its task.
        model: with the chosen weights.
        arrays: what is kept of each test image.
    """
    plan = run.plan
    scores = task.image_scores(arrays, plan.outputs)
    chosen = worst_and_best(scores)
    if not chosen:
        return {}
    rows = arrays["index"][[position for _, _, position in chosen]].astype(np.int64)
    drawings = _drawn(run, task, model, rows)
    images = [_placed(run, *place, scores, row) for place, row in zip(chosen, rows.tolist(), strict=True)]
    gallery = Gallery(score=task.IMAGE_SCORE, images=images)
    return _write(run, gallery, [drawings[row] for row in rows.tolist()])


def write_thumbnails(run: RunContext, task: Task, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Write the images that were predicted worst, small, into the run's folder; returns file name -> SHA-256.

    What was said of them is on file already, by every run of a sweep: a report shows both.

    Args:
        run: its plan and session.
        task: its task.
        arrays: what is kept of each test image.
    """
    from thawline.tasks.drawing import jpeg, scaled

    score, scores = task.ranking(arrays, run.plan.outputs)
    worst = [place for place in worst_and_best(scores, _THUMBNAILS) if place[0] == "worst"]
    if not worst:
        return {}
    rows = [int(arrays["index"][position]) for _, _, position in worst]
    images = [_placed(run, *place, scores, row) for place, row in zip(worst, rows, strict=True)]
    read = run.plan.splits.images.read
    contents = [jpeg(scaled(read(row), _THUMBNAIL_SIDE)[0], _THUMBNAIL_BYTES) for row in rows]
    return _write(run, Gallery(score=score, drawn=False, images=images), contents)


def _placed(
    run: RunContext, place: Place, number: int, position: int, scores: NDArray[np.float64], row: int
) -> GalleryImage:
    key, score = run.plan.splits.images.key(row), float(scores[position])
    return GalleryImage(file=f"{place}-{number}.jpg", key=key, place=place, number=number, score=score, index=row)


def _write(run: RunContext, gallery: Gallery, contents: Sequence[bytes]) -> dict[str, str]:
    folder = run.plan.folder
    remove_partial(folder / GALLERY_FOLDER)
    for image, content in zip(gallery.images, contents, strict=True):
        with atomic_write(folder / GALLERY_FOLDER / image.file) as stream:
            stream.write(content)
    write_json(folder / GALLERY_FILE, gallery.model_dump(mode="json"))
    files = [GALLERY_FILE, *(f"{GALLERY_FOLDER}/{image.file}" for image in gallery.images)]
    return {name: sha256_of_file(folder / name) for name in files}


def worst_and_best(scores: NDArray[np.float64], of_each: int = _OF_EACH) -> list[tuple[Place, int, int]]:
    """Place, number (from 1) and position of the images at both ends, the worst first, then the best first.

    Of equal scores the earlier image comes first. No image stands at both ends; one without a score (NaN) at none.
    """
    positions = np.flatnonzero(np.isfinite(scores))
    worst = positions[np.argsort(scores[positions], kind="stable")][: min(of_each, -(-len(positions) // 2))]
    others = np.setdiff1d(positions, worst)
    best = others[np.argsort(-scores[others], kind="stable")][:of_each]
    ends: Sequence[tuple[str, NDArray[np.int64]]] = (("worst", worst), ("best", best))
    return [
        (cast("Place", place), number, int(position))
        for place, found in ends
        for number, position in enumerate(found, start=1)
    ]


def _drawn(run: RunContext, task: SpatialTask, model: TransferModel, rows: NDArray[np.int64]) -> dict[int, bytes]:
    """The drawing of each image, as a file's bytes, by its row."""
    plan = run.plan
    targets = task.evaluation_targets(plan.splits.images.targets, plan.transform)
    drawings = {}
    for outputs, batch in outputs_in_batches(plan, model, decoded_images(run), np.sort(rows)):
        wanted = targets.read(0, batch)
        placements = [target["placement"] for target in wanted]
        truths = task.true(wanted, plan.outputs)
        predictions = task.shown(outputs, plan.outputs, placements)
        for row, truth, prediction in zip(batch.tolist(), truths, predictions, strict=True):
            drawings[row] = side_by_side(plan.splits.images.read(row), truth, prediction)
    return drawings


def side_by_side(image: Image, truth: Shown, prediction: Shown) -> bytes:
    """An image, what is true of it and what was predicted, in three panels, as a JPEG file of at most 80 kB."""
    from thawline.tasks.drawing import jpeg, panels, scaled

    shown = [scaled(image, _SIDE)[0], truth.drawn(image, _SIDE), prediction.drawn(image, _SIDE)]
    return jpeg(panels(shown, _TITLES), _MOST_BYTES)
