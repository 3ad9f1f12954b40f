"""The gallery of a run: its worst and best test images, each with what is true of it and what was predicted."""

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

    from thawline.tasks import Shown, SpatialTask

_OF_EACH = 3
_SIDE = 400
_MOST_BYTES = 80_000
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
    folder = plan.folder / GALLERY_FOLDER
    remove_partial(folder)
    rows = arrays["index"][[position for _, _, position in chosen]].astype(np.int64)
    drawings = _drawn(run, task, model, rows)
    images = []
    for (place, number, position), row in zip(chosen, rows.tolist(), strict=True):
        file = f"{place}-{number}.jpg"
        with atomic_write(folder / file) as stream:
            stream.write(drawings[row])
        key, score = plan.splits.images.key(row), float(scores[position])
        images.append(GalleryImage(file=file, key=key, place=place, number=number, score=score))
    write_json(plan.folder / GALLERY_FILE, Gallery(score=task.IMAGE_SCORE, images=images).model_dump(mode="json"))
    files = [GALLERY_FILE, *(f"{GALLERY_FOLDER}/{image.file}" for image in images)]
    return {name: sha256_of_file(plan.folder / name) for name in files}


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
