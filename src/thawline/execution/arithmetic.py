"""In which numbers a run computes, and how its tensors lie in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from thawline.planning.devices import device_of
from thawline.planning.half_precision import family_of
from thawline.planning.settings import RunSettings, TrainerSettings
from thawline.records import Arithmetic
from thawline.runtime.bfloat16 import bfloat16_instructions

if TYPE_CHECKING:
    from thawline.planning.plan import Plan

_MIXED = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_TRUE = {"bf16-true": torch.bfloat16, "64-true": torch.float64}


def mixed_precision(settings: RunSettings) -> torch.autocast:
    """Within the block the run's device computes in its mixed precision, as in Lightning's steps; else nothing changes.

    A thaw line is found, its values are computed and its suffixes run in it, so that stored values have the types that
    the whole model passes on, bit for bit.
    """
    kind = mixed_dtype(settings.trainer)
    return torch.autocast(device_of(settings).type, dtype=kind, enabled=kind is not None)


def mixed_dtype(trainer: TrainerSettings) -> torch.dtype | None:
    """The type that mixed precision computes in; None without it."""
    return _MIXED.get(trainer.precision)


def computing_dtype(trainer: TrainerSettings) -> torch.dtype:
    """The type that the products of a run are computed in."""
    return mixed_dtype(trainer) or weights_dtype(trainer)


def weights_dtype(trainer: TrainerSettings) -> torch.dtype:
    """The type that Lightning gives the model's parameters when a fit starts."""
    return _TRUE.get(trainer.precision, torch.float32)


def channels_last(settings: RunSettings, module: nn.Module) -> bool:
    """Whether a run keeps the channels of this backbone last in memory."""
    trainer = settings.trainer
    if trainer.channels_last != "auto":
        return trainer.channels_last
    if device_of(settings).type == "cuda":
        return trainer.precision != "32-true"
    # On a CPU in float32 depthwise convolutions take half the time so, and 3 x 3 ones at low resolution a quarter more.
    faster = (
        {"depthwise convolutions", "convolutions"} if trainer.precision == "bf16-mixed" else {"depthwise convolutions"}
    )
    return family_of(module) in faster


def arithmetic_of(plan: Plan, module: nn.Module) -> Arithmetic:
    """What the record says of it; `module` is the backbone."""
    device = device_of(plan.settings).type
    return Arithmetic(
        precision=plan.settings.trainer.precision,
        device=device,
        channels_last=channels_last(plan.settings, module),
        bfloat16_instructions=bfloat16_instructions() if device == "cpu" else None,
    )
