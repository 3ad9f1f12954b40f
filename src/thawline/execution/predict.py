"""What a finished run's model says of images that it has no targets of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thawline.datasets.splits import Images
from thawline.errors import UsageError
from thawline.execution.evaluate import outputs_for, outputs_of
from thawline.network.model import TransferModel
from thawline.planning.plan import Plan
from thawline.runtime.cores import available_cores
from thawline.runtime.steps import step
from thawline.store.decoded_images import decoded
from thawline.tasks import SpatialTask

if TYPE_CHECKING:
    from PIL.Image import Image

    from thawline.tasks import Shown

OnOutputs = Callable[[Any, Sequence[int]], None]

_MOST_AT_ONCE = 16
"""Images of a batch, at most: all of them are in memory at their own size."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        index: of the image.
        image: in RGB and upright, at its own size; None: it cannot be read.
        shown: what a reader is shown of it.
        problem: why it cannot be read.
    """

    index: int
    image: Image | None = None
    shown: Shown | None = None
    problem: str = ""


def predict(plan: Plan, model: TransferModel, images: Images) -> torch.Tensor:
    """The values (N, ...) that a reader is shown of each image, such as probabilities, by the run's own preprocessing.

    Args:
        plan: the run.
        model: with its weights.
        images: in the order of the values.
    """
    transform = plan.transform
    pixels = decoded(None, images, {}, transform.decode, transform.output_size, fingerprint="")
    outputs = outputs_of(plan, model, pixels, np.arange(len(images)))
    values: torch.Tensor = plan.settings.task.values(outputs)
    return values


def predictions(
    plan: Plan,
    model: TransferModel,
    images: Images,
    score: float = 0.5,
    *,
    batch_size: int | None = None,
    on_outputs: OnOutputs | None = None,
) -> Iterator[Prediction]:
    """What the model says of each image in its own pixels, in their order; few images are in memory at a time.

    An image that cannot be read has a problem, and the others go on.

    Args:
        plan: the run.
        model: with its weights.
        images: as `predict` takes them.
        score: of found objects, the least that is shown.
        batch_size: images that are read, and predicted, at once; default: the run's, up to `_MOST_AT_ONCE`.
        on_outputs: gets the outputs of the head for each batch, and the indices of its images.
    """
    at_once = batch_size or min(plan.settings.trainer.eval_batch_size, _MOST_AT_ONCE)
    with step("predicting", len(images)) as advance, ThreadPoolExecutor(min(available_cores(), at_once)) as pool:
        for first in range(0, len(images), at_once):
            batch = range(first, min(first + at_once, len(images)))
            read = list(pool.map(lambda index: _read(images, index), batch))
            usable = [one.image for one in read if one.image is not None]
            if usable:
                outputs = outputs_for(plan, model, torch.stack([plan.transform.decode(image) for image in usable]))
                if on_outputs is not None:
                    on_outputs(outputs, [one.index for one in read if one.image is not None])
                shown = iter(_shown(plan, outputs, usable, score))
            for one in read:
                yield one if one.image is None else Prediction(one.index, one.image, next(shown))
            advance(len(batch))


def _read(images: Images, index: int) -> Prediction:
    try:
        return Prediction(index, images.read(index))
    except UsageError as error:
        return Prediction(index, problem="; ".join(problem.message for problem in error.problems))


def _shown(plan: Plan, outputs: Any, images: Sequence[Image], score: float) -> Sequence[Shown]:
    task, transform = plan.settings.task, plan.transform
    sizes = [(image.height, image.width) for image in images] if isinstance(task, SpatialTask) else []
    return task.shown(outputs, plan.outputs, [transform.placement(size) for size in sizes], score)
