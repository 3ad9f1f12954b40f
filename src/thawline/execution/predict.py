"""What a finished run's model says of images that it has no targets of."""

from __future__ import annotations

import numpy as np
import torch

from thawline.datasets.splits import Images
from thawline.execution.evaluate import outputs_of
from thawline.network.model import TransferModel
from thawline.planning.plan import Plan
from thawline.store.decoded_images import decoded


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
