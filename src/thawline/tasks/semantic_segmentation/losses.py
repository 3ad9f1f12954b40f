"""The losses of semantic segmentation: cross-entropy, focal and dice, each with the count that its mean is taken over.

Everything is over counted pixels, those whose class is not `IGNORE`. A batch without one has loss 0 over 0 pixels, so
that it neither counts nor gives NaN. Since each term is a sum divided by its count, the means of unequal batches, and
of the shares of several devices, add up to the mean over all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thawline.datasets.targets import IGNORE
from thawline.tasks.task import LossTerm

if TYPE_CHECKING:
    import torch

_LEAST_DOUBT = 1e-6
"""Of a focal weight: the derivative of a power below 1 has no bound at 0."""


def cross_entropy(
    logits: torch.Tensor,
    classes: torch.Tensor,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
) -> LossTerm:
    """The mean cross-entropy over counted pixels of logits (B, C, H, W) and classes (B, H, W).

    Class weights are factors: the sum is divided by the number of pixels and not by the sum of their weights.
    """
    from torch.nn import functional as F

    weight = None if class_weights is None else logits.new_tensor(class_weights)
    total = F.cross_entropy(
        logits, classes, weight, ignore_index=IGNORE, reduction="sum", label_smoothing=label_smoothing
    )
    count = int((classes != IGNORE).sum())
    return LossTerm(total / max(count, 1), count)


def focal(logits: torch.Tensor, classes: torch.Tensor, gamma: float) -> LossTerm:
    """The mean of ``-(1 - p)^gamma log p`` over counted pixels, p the probability of the true class (Lin et al. 2017).

    Logits are (B, C, H, W), classes (B, H, W).
    """
    from torch.nn import functional as F

    entropy = F.cross_entropy(logits, classes, ignore_index=IGNORE, reduction="none")
    doubt = (1.0 - (-entropy).exp()).clamp(min=_LEAST_DOUBT)
    count = int((classes != IGNORE).sum())
    return LossTerm((doubt**gamma * entropy).sum() / max(count, 1), count)


def dice(logits: torch.Tensor, classes: torch.Tensor) -> LossTerm:
    """The mean over images of 1 - soft dice (Milletari et al. 2016), of logits (B, C, H, W) and classes (B, H, W).

    The soft dice of an image is the mean of ``2 sum(p t) / (sum(p) + sum(t))`` over the classes that it shows, p the
    probabilities and t 0 or 1, summed over its counted pixels. An image without a counted pixel does not count.
    """
    import torch
    from torch.nn import functional as F

    counted = classes != IGNORE
    truth = F.one_hot(classes.where(counted, 0), logits.shape[1]).movedim(-1, 1) * counted.unsqueeze(1)
    probabilities = logits.softmax(dim=1) * counted.unsqueeze(1)
    pixels = truth.sum(dim=(2, 3))
    shown = pixels > 0
    # Of a class that is shown the denominator is at least 1.
    denominator = (probabilities.sum(dim=(2, 3)) + pixels).clamp(min=1.0)
    of_class = 1.0 - 2.0 * (probabilities * truth).sum(dim=(2, 3)) / denominator
    of_image = (of_class * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)
    count = int(torch.count_nonzero(shown.any(dim=1)))
    return LossTerm(of_image.sum() / max(count, 1), count)
