"""Whether a run diverged: by its losses, against that of a constant predictor, and by the weights that it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

_MOST_TRAINING_LOSS = 2.0
"""In losses of a constant predictor. A network that has hardly trained yet is near 1, whatever its head starts with."""
_MOST_VALIDATION_LOSS = 100.0
"""In losses of a constant predictor. One that has overfitted is wrong with much confidence, but not with this much."""
_NAMED = 3


def divergence(
    epochs: Sequence[Mapping[str, Any]], constant_loss: float | None, tensors: Mapping[str, torch.Tensor]
) -> str:
    """Why the run counts as diverged; empty where it does not.

    It does if a training or validation loss is not finite, if the last one is far above the loss of predicting every
    class alike for every image, or if a tensor of the model is not finite.

    Args:
        epochs: the rows of the history that led to the model, in order.
        constant_loss: the loss of a constant predictor; None: no loss is too large.
        tensors: the model's state by name.
    """
    names = {"train/loss": "training loss", "val/loss": "validation loss"}
    for row in epochs:
        for key, name in names.items():
            if key in row and (row[key] is None or not math.isfinite(row[key])):
                return f"the {name} of epoch {row['epoch']} is not finite"
    for key, most in (("train/loss", _MOST_TRAINING_LOSS), ("val/loss", _MOST_VALIDATION_LOSS)):
        last = epochs[-1].get(key, 0.0) if epochs else 0.0
        if constant_loss is not None and last > most * constant_loss:
            return (
                f"the {names[key]} of epoch {epochs[-1]['epoch']} is {last:.3g}, more than {most:g} times that of a "
                f"constant predictor ({constant_loss:.3g})"
            )
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        return f"weights are not finite: {', '.join(broken[:_NAMED])}{more}"
    return ""
